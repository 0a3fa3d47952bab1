"""Runs and preparations that are killed at random moments, and whether anything is ever lost.

    python -m benchmarks.torture --kills 100

Victims are trainings on two processes (ZeRO 2), trainings that come back with another number of processes
and ZeRO stage each time, preparations of a corpus, and evaluations. SIGKILL goes to one rank or to all
processes: while they start, train, write a checkpoint, evaluate, convert a checkpoint, at any time of a
preparation. After every kill the checkpoints are proved by their hashes. A victim that has been killed often
enough comes to its end and is compared with one that was left in peace: logs bit for bit (where the number of
processes changes: rows and masks exactly, losses to rounding), shards byte for byte.

The last line is one JSON object: `kills`, `mismatches` (lines or files that differ), `unusable` (checkpoints
that were published and are not whole, and everything else that should not have happened), `lost_runs`
(victims that could not go on), `lost_steps` (trained again), `max_lost_steps` (after one kill; a checkpoint
is written every 10 steps).
"""

import argparse
import collections
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from benchmarks.loader import prepare
from benchmarks.output import tell
from benchmarks.torture.preparations import Preparation, kill_evaluation
from benchmarks.torture.trainings import Training, write_settings
from pipeline.runs.run_dir import RunDir, describe_machine

_KILLS_PER_VICTIM = 8
_KINDS = ("training", "training", "resized", "resized", "prep", "evaluate")


@dataclass
class Chamber:
    """Everything that victims share: the corpus, the recipe and what was left in peace."""

    directory: Path
    dice: random.Random
    phases: collections.Counter = field(default_factory=collections.Counter)
    mismatches: int = 0
    lost_runs: int = 0
    problems: list[str] = field(default_factory=list)
    lost_steps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare the corpus and train the undisturbed run."""
        self.documents, self.tokenizer = self.directory / "documents.jsonl", self.directory / "tokenizer"
        prepare("sample", self.documents, "--max-bytes", 3_000_000)
        prepare("tokenizer", self.documents, "--out", self.tokenizer, "--vocab-size", 1024)
        self.corpus = self.directory / "corpus"
        started = time.monotonic()
        subprocess.run(
            Preparation.command(self.documents, self.tokenizer, self.corpus), check=True, capture_output=True
        )
        self.prep_seconds = time.monotonic() - started
        self.recipe = self.directory / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(write_settings(self.corpus)), encoding="utf-8")
        self.undisturbed = RunDir(self.directory / "undisturbed")
        self._number = 0
        if self._new_training(self.undisturbed, False).finish(self.undisturbed) or self.problems:
            raise SystemExit(f"error: the undisturbed run failed, see {self.directory}/undisturbed.log")

    def torture(self, kind: str, num_kills: int, bar: tqdm) -> None:
        """Kill a victim so often, let it come to its end, and judge it."""
        self._number += 1
        name = f"{kind}-{self._number}"
        if kind == "evaluate":
            for _ in range(num_kills):
                self.problems += kill_evaluation(self.undisturbed, self.dice)
                self._count("evaluate", bar)
            return
        victim: Preparation | Training
        if kind == "prep":
            out = self.directory / name
            victim = Preparation(self.documents, self.tokenizer, out, self.dice, self.prep_seconds)
            self._kill(victim, num_kills, bar)
            self.mismatches += victim.finish(self.corpus)
            self.lost_runs += bool(victim.problems)
        else:
            victim = self._new_training(RunDir(self.directory / name), kind == "resized")
            self._kill(victim, num_kills, bar)
            self.mismatches += victim.finish(self.undisturbed)
            self.lost_runs += victim.is_lost
            self.lost_steps += victim.lost_steps
        self.problems += victim.problems

    def _new_training(self, run: RunDir, changes_size: bool) -> Training:
        return Training(self.recipe, run, self.dice, changes_size)

    def _kill(self, victim: Preparation | Training, num_kills: int, bar: tqdm) -> None:
        for _ in range(num_kills):
            phase = victim.kill_once()
            if phase is None:
                return
            self._count(phase, bar)

    def _count(self, phase: str, bar: tqdm) -> None:
        self.phases[phase] += 1
        bar.update()


def torture(directory: Path, num_kills: int, seed: int) -> dict[str, Any]:
    chamber = Chamber(directory, random.Random(seed))
    with tqdm(total=num_kills, unit="kill", disable=not sys.stderr.isatty()) as bar:
        kinds = list(_KINDS)
        while (left := num_kills - chamber.phases.total()) > 0:
            kind = kinds.pop(chamber.dice.randrange(len(kinds)))
            kinds = kinds or list(_KINDS)  # all kinds in turn, in a random order
            chamber.torture(kind, min(left, _KILLS_PER_VICTIM // (2 if kind == "evaluate" else 1)), bar)
    return {
        "benchmark": "torture",
        "kills": chamber.phases.total(),
        "mismatches": chamber.mismatches,
        "unusable": len(chamber.problems),
        "lost_runs": chamber.lost_runs,
        "lost_steps": sum(chamber.lost_steps),
        "max_lost_steps": max(chamber.lost_steps, default=0),
        "phases": dict(sorted(chamber.phases.items())),
        "problems": chamber.problems,
        "seed": seed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=100, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses victims and moments")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new directory and keep it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        directory = arguments.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        result = torture(directory, arguments.kills, arguments.seed)
    told = ", ".join(f"{count} in {phase}" for phase, count in result["phases"].items())
    print(f"{result['kills']} kills survived: {told}")
    print(
        f"  steps trained again   {result['lost_steps']}, at most {result['max_lost_steps']} after one kill"
    )
    print(f"  lines or files that differ   {result['mismatches']}")
    print(f"  runs lost   {result['lost_runs']}")
    for problem in result["problems"]:
        print(f"  PROBLEM: {problem}")
    result |= describe_machine()
    tell(result, arguments.out)
    return 1 if result["mismatches"] or result["unusable"] or result["lost_runs"] else 0


if __name__ == "__main__":
    sys.exit(main())
