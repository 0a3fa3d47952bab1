"""Preparations and evaluations that are killed again and again."""

import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.killing import kill_all, start
from pipeline.runs.run_dir import RunDir


@dataclass
class Preparation:
    """`data_prep shard`, killed at any time from its start to its end.

    Attributes:
        documents, tokenizer: what it prepares.
        out: where, not made yet.
        dice: when it is killed.
        seconds: how long it takes undisturbed.
    """

    documents: Path
    tokenizer: Path
    out: Path
    dice: random.Random
    seconds: float
    problems: list[str] = field(default_factory=list)

    def kill_once(self) -> str | None:
        """Start it and kill it; None if it came to its end before."""
        process = start(self.command(self.documents, self.tokenizer, self.out), self._log)
        time.sleep(self.dice.uniform(0.0, self.seconds))
        ended = process.poll() is not None
        kill_all(process)
        return None if ended else "prep"

    def finish(self, undisturbed: Path) -> int:
        """Let it come to its end; the number of files that are not byte for byte the undisturbed one's."""
        process = start(self.command(self.documents, self.tokenizer, self.out), self._log)
        if process.wait():
            self.problems.append(f"{self.out} ended with exit code {process.returncode}, see {self._log}")
        names = {path.name for where in (self.out, undisturbed) for path in where.glob("*.arrow")}
        return sum(_bytes_of(self.out / name) != _bytes_of(undisturbed / name) for name in names)

    @property
    def _log(self) -> Path:
        return self.out.with_suffix(".log")

    @staticmethod
    def command(documents: Path, tokenizer: Path, out: Path) -> list[str]:
        options = ["--tokenizer", tokenizer, "--out", out, "--length", 64, "--shards", 4, "--workers", 2]
        return [sys.executable, "-m", "data_prep", "shard", str(documents), *map(str, options)]


def kill_evaluation(run: RunDir, dice: random.Random) -> list[str]:
    """Start `evaluate` and kill it; what is wrong with its result file afterwards."""
    command = [sys.executable, "-m", "pipeline", "evaluate", str(run.path), "--limit", "64"]
    process = start(command, run.path.with_suffix(".log"))
    time.sleep(dice.uniform(0.0, 10.0))
    kill_all(process)
    try:
        json.loads((run.evaluation / "held_out.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError as error:
        return [f"{run.evaluation / 'held_out.json'} is broken: {error}"]
    return []


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
