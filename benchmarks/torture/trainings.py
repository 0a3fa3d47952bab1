"""A training that is killed again and again, and what it must still give."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.killing import kill_all, kill_rank, start, wait_until
from benchmarks.resume import last_step, train_command
from pipeline.checkpoints.manifest import list_checkpoints, newest_usable, step_of
from pipeline.checkpoints.universal import CONVERTED_NAME
from pipeline.errors import EXIT_LOST, EXIT_STOPPED, CheckpointError
from pipeline.runs.run_dir import RunDir, read_json_lines

NUM_STEPS, SAVE_EVERY, EVALUATE_EVERY = 300, 10, 20
_STAGES = ("zero1", "zero2", "zero3")
_TRAINED = ("loss", "accuracy", "tokens", "guidance_loss", "gradient_norm", "rows_digest")
_ROUNDING = 1e-3  # of losses, over a run that changed its number of processes again and again


def write_settings(corpus: Path) -> dict[str, Any]:
    """A recipe whose steps take a few hundredths of a second."""
    return {
        "run_dir": "unused",
        "corpus": str(corpus),
        "model": {
            "num_layers": 2,
            "hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 128,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
        "guidance": {"heads": {"next": 1, "first": 1}, "weight": 0.1, "dense": 40, "layers_per_step": 1},
        "train": {
            "num_steps": NUM_STEPS,
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "precision": "fp32",
            "deepspeed": "zero2",
        },
        "data": {"num_workers": 0},
        "evaluation": {"every_steps": EVALUATE_EVERY, "max_rows": 64},
        "checkpoint": {"every_steps": SAVE_EVERY},
        "recovery": {"silence_seconds": 5.0},
        "logging": {"every_steps": 1, "tensorboard": False},
    }


@dataclass
class Training:
    """One run, killed until `finish`.

    Attributes:
        recipe: its file.
        run: its directory, not made yet.
        dice: where and how it is killed.
        changes_size: start it with another number of processes and ZeRO stage each time.
        lost_steps: steps trained again, one number per kill.
        problems: what should not have happened.
    """

    recipe: Path
    run: RunDir
    dice: random.Random
    changes_size: bool
    lost_steps: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _size: tuple[int, str] = (2, "zero2")

    def kill_once(self) -> str | None:
        """Start it and kill it; the phase in which it was, or None if it came to its end before."""
        phases = ["start", "steps", "save", "evaluation"]
        if self.changes_size and list_checkpoints(self.run.checkpoints):
            phases = ["conversion", "conversion", *phases]
        phase = self.dice.choice(phases)
        self._choose_size(another=phase == "conversion")
        process = start(self._command(), self._log)
        if not wait_until(self._moment(phase), process):
            self._check_end(process.returncode)
            return None
        time.sleep(self.dice.uniform(0.0, 0.1))
        before = last_step(self.run)
        processes = self._size[0]
        rank = self.dice.randrange(processes)
        if processes == 1 or self.dice.random() < 0.5 or not kill_rank(process, rank):
            kill_all(process)
        self._check_checkpoints(before)
        return phase

    def finish(self, undisturbed: RunDir) -> int:
        """Let it come to its end; the number of lines of its log that differ from the undisturbed one's.

        With another number of processes, rows and masks must be the same, and losses equal to rounding.
        """
        self._choose_size(another=False)
        process = start(self._command(), self._log)
        process.wait()
        self._check_end(process.returncode)
        return count_mismatches(self.run, undisturbed, exact=not self.changes_size)

    @property
    def is_lost(self) -> bool:
        """Whether it cannot go on."""
        return last_step(self.run) < NUM_STEPS

    @property
    def _log(self) -> Path:
        return self.run.path.with_suffix(".log")

    def _choose_size(self, another: bool) -> None:
        if self.changes_size:
            sizes = [(n, stage) for n in (1, 2) for stage in _STAGES]
            self._size = self.dice.choice([s for s in sizes if not another or s != self._size])

    def _command(self) -> list[str]:
        processes, stage = self._size
        settings = [f"run_dir={self.run.path}", f"train.deepspeed={stage}"]
        return train_command(str(self.recipe), processes, settings)

    def _moment(self, phase: str) -> Any:
        """A condition that becomes true in that phase; the wait until then is part of the lot."""
        if phase == "start":
            until = time.monotonic() + self.dice.uniform(0.0, 12.0)
            return lambda: time.monotonic() > until
        if phase == "conversion":
            return lambda: any((self.run.checkpoints / CONVERTED_NAME).glob(".partial-*"))
        first = last_step(self.run) + self.dice.randrange(1, 3 * SAVE_EVERY)
        if phase == "save":
            return lambda: last_step(self.run) >= first and any(self.run.checkpoints.glob(".partial-step-*"))
        if phase == "evaluation":  # the line of the step comes before the evaluation
            return lambda: last_step(self.run) >= first and last_step(self.run) % EVALUATE_EVERY == 0
        return lambda: last_step(self.run) >= first

    def _check_checkpoints(self, logged_step: int) -> None:
        """After a kill every published checkpoint must be whole, and few steps may be gone."""
        try:
            newest, damaged = newest_usable(self.run.checkpoints)
        except CheckpointError as error:
            self.problems.append(str(error))
            return
        self.problems += [f"published and damaged: {damage}" for damage in damaged]
        resumed = 0 if newest is None else step_of(newest)
        self.lost_steps.append(max(0, logged_step - resumed))
        if logged_step - resumed > 2 * SAVE_EVERY:  # one period, and one that was being written
            self.problems.append(f"{logged_step - resumed} steps lost at step {logged_step}")

    def _check_end(self, code: int) -> None:
        if code not in (0, EXIT_STOPPED, EXIT_LOST):
            self.problems.append(f"{self.run.path} ended with exit code {code}, see {self._log}")


def count_mismatches(run: RunDir, undisturbed: RunDir, exact: bool) -> int:
    """Lines of training whose numbers are not those of the undisturbed run."""
    ours = {line["step"]: line for line in read_json_lines(run.metrics_file) if line["kind"] == "train"}
    theirs = [line for line in read_json_lines(undisturbed.metrics_file) if line["kind"] == "train"]
    return sum(not _is_same(ours.get(line["step"]), line, exact) for line in theirs)


def _is_same(ours: dict[str, Any] | None, theirs: dict[str, Any], exact: bool) -> bool:
    if ours is None or ours["rows_digest"] != theirs["rows_digest"]:
        return False
    if exact:
        return all(ours[name] == theirs[name] for name in _TRAINED)
    return abs(ours["loss"] - theirs["loss"]) <= _ROUNDING * theirs["loss"]
