"""A finished run's figure on a task of `evaluate`, which keeps what it measures in the run's directory."""

import contextlib
import io
import math
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import CheckpointError, UsageError
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.results import read_evaluations
from pipeline.study.measure import Measure, did_you_mean


def score_run(path: Path, last_step: int, measure: Measure, corpora: Sequence[str] = ()) -> float | None:
    """The figure of a run's final weights; what RUN/evaluation/TASK.json has of it is not measured again.

    Args:
        path: of the run.
        last_step: at which it ended.
        measure: with a task.
        corpora: where the run's corpora are, if not where it was trained with them.

    Returns:
        The figure; None if it is not finite.

    Raises:
        UsageError: the task gives no such figure, or cannot be run.
        CheckpointError: the weights of the last step are not there or damaged.
    """
    assert measure.task is not None
    given = {key: Path(value) if key == "data" else value for key, value in measure.settings.items()}
    with contextlib.redirect_stdout(io.StringIO()):  # tables of many runs; the study has its own
        numbers = evaluate(str(path), measure.task, given, corpora=corpora).numbers
    of = read_evaluations(path / "evaluation" / f"{measure.task}.json")[-1]["of"]
    if of["step"] != last_step:
        raise CheckpointError(
            f"{path}: its newest good checkpoint is of step {of['step']}, and it was trained to step "
            f"{last_step}, so it cannot be compared; move the directory away and train it again"
        )
    if measure.figure not in numbers:
        raise UsageError(
            f"--compare-by {measure.figure}: task {measure.task!r} gives no such number; "
            f"{did_you_mean(measure.figure, numbers)}"
        )
    number = numbers[measure.figure]
    print(f"{measure.name} of {path}: {number:.4f}")
    return number if math.isfinite(number) else None
