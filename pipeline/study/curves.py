"""A run's curve: its held-out loss, or what else it is compared by, over steps, tokens and training time.

Training time is that of the steps. A training line has their mean, so what it stands for is the mean times
the number of updates since the line before; evaluations, checkpoints and restarts are not in it, nor are
steps that a resumed run has trained twice. Held-out evaluations that no training line covers yet are left
out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.config.load import read_settings
from pipeline.errors import DataError, UsageError
from pipeline.runs.log_tail import Line, number_of
from pipeline.runs.run_dir import RunDir, read_json_lines
from pipeline.study.measure import HELD_OUT_LOSS, Measure, did_you_mean

# "diverged" also has no final loss, but is a finding: the run is over. The others are not.
State = Literal["finished", "diverged", "unfinished", "missing"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Of one run, from its files alone. A loss or value that was not finite is None.

    Attributes:
        state: "finished" if there is a held-out loss at the recipe's last step.
        train_steps: at the training lines.
        train_losses: means over the steps since the line before, in nats per predicted token.
        steps: at the held-out evaluations.
        seconds: of training before each evaluation.
        tokens: trained before each evaluation, padding not counted.
        losses: held-out, in nats per predicted token.
        formed_step: at which the patterns counted as formed; None if they did not, or nobody looked.
        values: of the measure, at the held-out evaluations; None if it is their loss, none if it is a task's.
        task_value: of a measure that is a task's; None unless the run is finished.
    """

    state: State
    train_steps: tuple[int, ...] = ()
    train_losses: tuple[float | None, ...] = ()
    steps: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    losses: tuple[float | None, ...] = ()
    formed_step: int | None = None
    values: tuple[float | None, ...] | None = None
    task_value: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether training would change nothing any more."""
        return self.state in ("finished", "diverged")

    @property
    def compared(self) -> tuple[float | None, ...]:
        """What runs are compared by, at the held-out evaluations; empty if it is a task's."""
        return self.losses if self.values is None else self.values

    @property
    def final_value(self) -> float | None:
        """What runs are compared by, at the last step; None unless the run is finished."""
        if self.state != "finished":
            return None
        return self.compared[-1] if self.compared else self.task_value


def read_curve(path: Path, measure: Measure = HELD_OUT_LOSS) -> Curve:
    """The curve of a run directory, which need not exist, without the value of a task.

    Raises:
        DataError: its recipe names no steps.
        UsageError: its held-out evaluations do not have the measure's figure.
    """
    run = RunDir(path)
    if not run.holds_run():
        return Curve(state="missing")
    lines = read_json_lines(run.metrics_file)
    train = [line for line in lines if line["kind"] == "train"]
    last_step = train[-1]["step"] if train else 0
    valid = [line for line in lines if line["kind"] == "valid" and line["step"] <= last_step]
    events = run.read_events()
    formed = [event["step"] for event in events if event["event"] == "patterns formed"]
    steps, train_steps = (tuple(line["step"] for line in some) for some in (valid, train))
    tokens = _at(steps, train_steps, [line["tokens"] for line in train])
    return Curve(
        state=_state(valid, _num_steps(run), any(event["event"] == "diverged" for event in events)),
        train_steps=train_steps,
        train_losses=tuple(number_of(line, "loss") for line in train),
        steps=steps,
        seconds=tuple(_at(steps, train_steps, _training_seconds(train)).tolist()),
        tokens=tuple(tokens.round().astype(int).tolist()),
        losses=tuple(number_of(line, "loss") for line in valid),
        formed_step=formed[-1] if formed else None,
        values=_values(run, valid, measure),
    )


def _values(run: RunDir, valid: Sequence[Line], measure: Measure) -> tuple[float | None, ...] | None:
    """The measure's figure at the held-out evaluations; None for the loss, which is there already."""
    if measure.is_loss:
        return None
    if measure.task is not None:
        return ()
    if valid and not any(measure.figure in line for line in valid):
        known = dict.fromkeys(key for line in valid for key, value in line.items() if _is_figure(key, value))
        raise UsageError(
            f"--compare-by {measure.figure}: the held-out lines of {run.metrics_file} have no such figure; "
            f"{did_you_mean(measure.figure, known)}"
        )
    return tuple(number_of(line, measure.figure) for line in valid)


def _is_figure(key: str, value: object) -> bool:
    return key not in ("kind", "step") and (value is None or isinstance(value, int | float))


def _training_seconds(train: Sequence[Line]) -> list[float]:
    """Since the start of the run, at its training lines.

    A line without any update has no mean; how long its steps took is not known, and they count as nothing.
    """
    totals, total, step = [], 0.0, 0
    for line in train:
        num_updates = line["step"] - step - line["skipped_steps"]
        total += (number_of(line, "step_seconds") or 0.0) * num_updates
        step = line["step"]
        totals.append(total)
    return totals


def _at(steps: Sequence[int], known_steps: Sequence[int], known: Sequence[float]) -> npt.NDArray[np.float64]:
    """What is known at some steps, and is 0 at step 0, at others between them."""
    return np.interp(steps, [0, *known_steps], [0.0, *known])


def _state(valid: Sequence[Line], num_steps: int, diverged: bool) -> State:
    if valid and valid[-1]["step"] == num_steps:
        return "diverged" if number_of(valid[-1], "loss") is None else "finished"
    return "diverged" if diverged else "unfinished"


def _num_steps(run: RunDir) -> int:
    train = read_settings(run.recipe_file, []).get("train")
    num_steps = train.get("num_steps") if isinstance(train, dict) else None
    if not isinstance(num_steps, int):
        raise DataError(
            f"{run.recipe_file}: train.num_steps is {num_steps!r}, not a number of steps; "
            "move the run directory away and train it again"
        )
    return num_steps
