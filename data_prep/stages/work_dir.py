"""Where a preparation keeps what it has finished so far."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.format import WORK_NAME, Split


class WorkDir:
    """OUT/.work; every file in it is complete, or its name begins with a dot."""

    def __init__(self, out: Path) -> None:
        """The working directory of the corpus `out`; need not exist yet."""
        self.root = out / WORK_NAME
        self.plan = self.root / "plan.json"
        self.command = self.root / "command"
        self.num_tasks = self.root / "num_tasks"
        self.backend = self.root / "backend"
        self.lock = self.root / "lock"
        self.tokenizer = self.root / "tokenizer"
        self.removed = self.root / "near" / "removed.npy"

    def create(self) -> None:
        """Make the directories; several tasks may do so at once."""
        for name in ("parts", "segments", "near", "shards"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def part(self, segment: int, part: int) -> Path:
        """A part file."""
        return self.root / "parts" / f"{segment:06d}-{part:06d}.part"

    def part_files(self) -> list[Path]:
        """All part files, in the order of the input."""
        return sorted((self.root / "parts").glob("[!.]*.part"))

    def segment(self, segment: int) -> Path:
        """Says how many parts a segment has, once it has been read to its end."""
        return self.root / "segments" / f"{segment:06d}.json"

    def pairs(self, number: int) -> Path:
        """Pairs of near-duplicates found in one range of signatures."""
        return self.root / "near" / f"{number:05d}.npy"

    def shard(self, split: Split, number: int) -> Path:
        """A packed shard, until it gets its final name."""
        return self.root / "shards" / f"{split}-{number:05d}.arrow"

    def shard_report(self, split: Split, number: int) -> Path:
        """Says that a shard is packed, and what is in it."""
        return self.shard(split, number).with_suffix(".json")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process, on any machine, is inside; a process that dies lets go."""
        with self.lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def remove(self) -> None:
        """Delete it, for it is no longer needed."""
        shutil.rmtree(self.root, ignore_errors=True)
