"""Checkpoints that are all there or not there, written while training goes on.

DeepSpeed alone would let rank 0 write `latest` after its own files, without waiting for the others. Here what
DeepSpeed has to write is caught and copied at a step boundary; a thread of every process writes, syncs and
hashes its files under a hidden name; and when all have told that they are through, the main process lists
them in MANIFEST.json, renames the directory, and only then names it in `latest`.
"""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from data_prep.files import sync_file, write_atomically
from pipeline.checkpoints.host_copy import HostCopy
from pipeline.checkpoints.manifest import (
    LATEST_NAME,
    MANIFEST_NAME,
    PARTIAL_PREFIX,
    CheckpointFile,
    CheckpointManifest,
    checkpoint_name,
    describe_file,
    state_name,
)
from pipeline.errors import CheckpointError
from pipeline.processes.cluster import Cluster

_ABANDON_SECONDS = 30.0


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was published.

    Attributes:
        step: optimizer steps it stands for.
        seconds: from the step boundary to its publication.
        stall_seconds: of these, how long training stood still.
    """

    step: int
    seconds: float
    stall_seconds: float


@dataclass
class _Write:
    """One process's part of a checkpoint, on its way to disk."""

    partial: Path
    step: int
    started: float = field(default_factory=time.monotonic)
    stall_seconds: float = 0.0
    files: dict[str, CheckpointFile] = field(default_factory=dict)
    problem: str | None = None
    thread: threading.Thread | None = None

    def add(self, path: Path, value: Any) -> None:
        """Write, sync and hash a file; what goes wrong is kept, because all processes must hear of it."""
        if self.problem is not None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(value, path)
            self.files[str(path.relative_to(self.partial))] = describe_file(path)
        except Exception as error:  # whatever it is: a file that is missing must never go unnoticed
            self.problem = f"cannot write the checkpoint {self.partial}: {error or type(error).__name__}"

    def add_later(self, caught: list[tuple[Path, Any]]) -> None:
        """Add files from a thread."""

        def work() -> None:
            for path, value in caught:
                self.add(path, value)

        self.thread = threading.Thread(target=work, name="save", daemon=True)
        self.thread.start()

    @property
    def finished(self) -> bool:
        """Whether this process's files are on disk, or cannot be."""
        return self.thread is None or not self.thread.is_alive()


class CheckpointSaver:
    """Saves checkpoints of one engine, one at a time. Every process calls the same methods in one order."""

    def __init__(self, cluster: Cluster, engine: Any, directory: Path, zero_stage: int) -> None:
        """`directory` is the run's checkpoints/; `zero_stage` is recorded with each checkpoint."""
        self.cluster, self.engine = cluster, engine
        self.directory, self.zero_stage = directory, zero_stage
        self._copies = HostCopy()
        self._write: _Write | None = None

    @property
    def is_pending(self) -> bool:
        """Whether a checkpoint is being written: the same answer on every process."""
        return self._write is not None

    @property
    def is_written(self) -> bool:
        """Whether this process has done its part of the pending checkpoint."""
        return self._write is not None and self._write.finished

    def begin(self, step: int, state: dict[str, Any], *, asynchronous: bool) -> None:
        """Begin to save; nothing may be pending.

        Args:
            step: optimizer steps taken.
            state: this process's own state, kept in its state-rank file.
            asynchronous: return as soon as the state is copied; otherwise when it is written.

        Raises:
            CheckpointError: the directory cannot be written.
        """
        assert self._write is None
        write = _Write(self.directory / f"{PARTIAL_PREFIX}{checkpoint_name(step)}", step)
        self.cluster.on_main(lambda: _clear(write.partial))
        state_file = write.partial / state_name(self.cluster.rank)
        if asynchronous:
            caught: list[tuple[Path, Any]] = []
            with self._copies.taking() as copy:
                self._give_files(write.partial, lambda path, value: caught.append((path, copy(value))))
                caught.append((state_file, copy(state)))
            write.add_later(caught)
        else:
            self._give_files(write.partial, write.add)
            write.add(state_file, state)
        write.stall_seconds = time.monotonic() - write.started
        self._write = write

    def publish(self) -> Saved:
        """Wait until every process has written its part, and publish the pending checkpoint.

        Raises:
            CheckpointError: some process could not write; nothing is published then. The main process's has
                the message, the others' (a ToldElsewhereError) ends them with the same code.
        """
        assert self._write is not None
        write, self._write = self._write, None
        began = time.monotonic()
        if write.thread is not None:
            write.thread.join()
        parts = self.cluster.gather((write.files, write.problem))
        self.cluster.on_main(lambda: self._publish(write, parts))
        now = time.monotonic()
        return Saved(write.step, now - write.started, write.stall_seconds + now - began)

    def abandon(self) -> None:
        """Give up what is being written: a thread must not outlive its process's libraries."""
        if self._write is not None and self._write.thread is not None:
            self._write.problem = "abandoned"  # no further file is begun
            self._write.thread.join(_ABANDON_SECONDS)
        self._write = None

    def _give_files(self, partial: Path, take: Callable[[Path, Any], None]) -> None:
        """Hand each file that DeepSpeed has this process write to `take`, which must not raise.

        All processes meet in barriers in here, where one that raised would leave the others waiting.
        """

        def save(state_dict: Any, path: str, *_arguments: Any, **_settings: Any) -> None:
            take(Path(path), state_dict)

        writer = self.engine.checkpoint_engine
        with (
            mock.patch.object(writer, "save", save),
            mock.patch.object(writer, "makedirs", return_value=None),
            mock.patch.object(self.engine, "_copy_recovery_script", return_value=None),
        ):
            self.engine.save_checkpoint(str(partial.parent), tag=partial.name, save_latest=False)

    def _publish(self, write: _Write, parts: list[tuple[dict[str, CheckpointFile], str | None]]) -> None:
        problems = [f"rank {rank} {problem}" for rank, (_, problem) in enumerate(parts) if problem]
        if problems:
            shutil.rmtree(write.partial, ignore_errors=True)  # it may be what fills the disk
            raise CheckpointError("\n".join(problems))
        manifest = CheckpointManifest(
            step=write.step,
            world_size=self.cluster.world_size,
            zero_stage=self.zero_stage,
            files=dict(sorted(item for files, _ in parts for item in files.items())),
        )
        publish_directory(write.partial, self.directory / checkpoint_name(write.step), manifest)
        try:
            write_atomically(self.directory / LATEST_NAME, checkpoint_name(write.step) + "\n")
        except OSError as error:
            raise CheckpointError(f"cannot write {self.directory / LATEST_NAME}: {error}") from error


def publish_directory(partial: Path, final: Path, manifest: CheckpointManifest) -> None:
    """Write MANIFEST.json into a complete directory and give it its final name, which must be free."""
    try:
        write_atomically(partial / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")
        sync_file(partial)
        partial.rename(final)  # fails, rather than replaces, if it was published before
        sync_file(final.parent)
    except OSError as error:
        raise CheckpointError(f"cannot publish the checkpoint {final}: {error}") from error


def _clear(partial: Path) -> None:
    """Make the hidden directory, without what a killed save may have left in it."""
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {partial}: {error}") from error
