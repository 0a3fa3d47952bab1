"""What runs say when they are compared with a baseline's, seed by seed.

A cell's run and the baseline's of the same seed begin at the same weights and see the same rows and masks in
the same order, as far as the settings allow, so they are compared in pairs: what a seed does to both cancels.
They are compared by the study's measure: the held-out loss, or another figure (see measure.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import AliasChoices, Field
from scipy import stats

from pipeline.study.curves import Curve
from pipeline.study.measure import HELD_OUT_LOSS, At, Measure

_CONFIDENCE = 0.95
Values = Sequence[float | None]


def also_read(name: str, older: str) -> Any:
    """A field that results of older studies have under another name."""
    return Field(validation_alias=AliasChoices(name, older))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of some values; the standard deviation is that of a sample, and None for one value."""

    num: int
    mean: float
    std: float | None
    min: float
    max: float


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Cell minus baseline over pairs of the same seed.

    Attributes:
        num_pairs: seeds that both have.
        mean: of the differences.
        std: of them, of a sample; None for one pair.
        relative_percent: mean difference in percent of the baseline's mean; None if that is 0.
        p_value: of a two-sided paired t-test; like the interval None for one pair or equal differences.
        interval: the mean's 95 % t interval.
        num_lower: pairs in which the cell is lower.
        num_higher: pairs in which it is higher.
    """

    num_pairs: int
    mean: float
    std: float | None
    relative_percent: float | None
    p_value: float | None
    interval: tuple[float, float] | None
    num_lower: int
    num_higher: int


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """A run beside the baseline's of the same seed. The target is the baseline's final value.

    Attributes:
        baseline_value: the target.
        difference: of the final values, None if this run has none.
        steps: at which the target is first reached; None for never, and where a task is compared.
        seconds: of training until then.
        steps_fraction: the same as a share of all the steps that the baseline took, ...
        seconds_fraction: ... and of all its seconds.
        value_at_equal_seconds: this run's value when it has trained for as long as the baseline in all, or in
            the end if it was finished before; None if it diverged, before its first evaluation, and where a
            task is compared.
        value_at_equal_steps: the same when it has taken as many steps.
    """

    baseline_value: Annotated[float, also_read("baseline_value", "baseline_loss")]
    difference: float | None
    steps: float | None
    seconds: float | None
    steps_fraction: float | None
    seconds_fraction: float | None
    value_at_equal_seconds: Annotated[
        float | None, also_read("value_at_equal_seconds", "loss_at_equal_seconds")
    ]
    value_at_equal_steps: float | None = None

    def value_at(self, at: At, final_value: float | None) -> float | None:
        """This run's value where a measure takes it, given the one at its end."""
        return {"end": final_value, "steps": self.value_at_equal_steps, "time": self.value_at_equal_seconds}[
            at
        ]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """How much the final value of an arm depends on the other axes: over cells, of their mean over seeds.

    Attributes:
        num_cells: cells with a finished run; the next four are over these.
        best: lowest, or highest where that is better.
        median: of the cells.
        worst: the opposite.
        std: of a sample; None for one cell.
        num_runs: runs that are over, diverged ones too.
        num_diverged: how many of these have diverged.
        num_above_unigram: runs that diverged or end above the unigram loss; None if that is not known.
    """

    num_cells: int
    best: float | None
    median: float | None
    worst: float | None
    std: float | None
    num_runs: int
    num_diverged: int
    num_above_unigram: int | None


def first_reach(positions: Sequence[float], values: Values, target: float) -> float | None:
    """Where a curve first comes down to a target, linear between evaluations; None for never.

    At the first evaluation, or after one that was not finite, there is nothing to interpolate from: then it
    is that evaluation's position, at which the target was reached at the latest.

    Args:
        positions: of the evaluations, rising, in any unit.
        values: at them, of which lower ones are better.
        target: a value. It may rise above it again later; that does not count.
    """
    for index, value in enumerate(values):
        if value is None or value > target:
            continue
        before = values[index - 1] if index else None
        if before is None:
            return positions[index]
        share = (before - target) / (before - value)
        return positions[index - 1] + share * (positions[index] - positions[index - 1])
    return None


def value_at(positions: Sequence[float], values: Values, position: float) -> float | None:
    """A curve's value, linear between evaluations, the last one after them; None before or if not finite."""
    if not positions or position < positions[0]:
        return None
    value = float(np.interp(position, positions, np.array(values, dtype=float)))
    return value if math.isfinite(value) else None


def compare_runs(run: Curve, baseline: Curve, measure: Measure = HELD_OUT_LOSS) -> RunComparison | None:
    """A run with the baseline's of the same seed; None if it is not over, or the baseline has no final value.

    The baseline compared with itself says when it first had its final value, which may be before its end.
    """
    target = baseline.final_value
    if target is None or not run.is_over:
        return None
    all_seconds = baseline.seconds[-1]
    falling = [None if value is None else measure.sign * value for value in run.compared]
    steps = first_reach(run.steps, falling, measure.sign * target)
    seconds = first_reach(run.seconds, falling, measure.sign * target)
    is_finished = run.state == "finished" and bool(run.compared)
    return RunComparison(
        baseline_value=target,
        difference=None if run.final_value is None else run.final_value - target,
        steps=steps,
        seconds=seconds,
        steps_fraction=None if steps is None else steps / baseline.steps[-1],
        seconds_fraction=None if seconds is None or not all_seconds else seconds / all_seconds,
        value_at_equal_seconds=value_at(run.seconds, run.compared, all_seconds) if is_finished else None,
        value_at_equal_steps=(value_at(run.steps, run.compared, baseline.steps[-1]) if is_finished else None),
    )


def paired_difference(pairs: Sequence[tuple[float, float]]) -> PairedDifference | None:
    """Of pairs (baseline, cell), one per seed; None without any."""
    if not pairs:
        return None
    baseline, cell = np.array(pairs, dtype=float).T
    differences = cell - baseline
    p_value, interval = None, None
    # Differences that are equal but for rounding have no variance to test against.
    if not np.allclose(differences, differences[0], rtol=1e-9, atol=1e-12):
        test = stats.ttest_1samp(differences, 0.0)
        low, high = test.confidence_interval(_CONFIDENCE)
        p_value, interval = float(test.pvalue), (float(low), float(high))
    return PairedDifference(
        num_pairs=len(pairs),
        mean=float(differences.mean()),
        std=_std(differences),
        relative_percent=float(100 * differences.mean() / abs(mean)) if (mean := baseline.mean()) else None,
        p_value=p_value,
        interval=interval,
        num_lower=int((differences < 0).sum()),
        num_higher=int((differences > 0).sum()),
    )


def spread_of(values: Sequence[float]) -> Spread | None:
    """None without values."""
    if not values:
        return None
    return Spread(
        num=len(values),
        mean=float(np.mean(values)),
        std=_std(values),
        min=float(min(values)),
        max=float(max(values)),
    )


def sensitivity_of(
    cells: Sequence[Sequence[Curve]], unigram_loss: float | None, measure: Measure = HELD_OUT_LOSS
) -> Sensitivity:
    """Of an arm.

    Args:
        cells: for every choice on the other axes, its runs.
        unigram_loss: loss above which a run has learned not even how frequent tokens are; None where another
            figure is compared.
        measure: the figure.
    """
    finals = [[run.final_value for run in runs if run.final_value is not None] for runs in cells]
    means = [float(np.mean(of_cell)) for of_cell in finals if of_cell]
    best, worst = (min, max) if measure.better == "lower" else (max, min)
    num_diverged = sum(run.state == "diverged" for runs in cells for run in runs)
    num_above = None
    if unigram_loss is not None:
        num_above = num_diverged + sum(loss > unigram_loss for of_cell in finals for loss in of_cell)
    return Sensitivity(
        num_cells=len(means),
        best=best(means, default=None),
        median=float(np.median(means)) if means else None,
        worst=worst(means, default=None),
        std=_std(means),
        num_runs=num_diverged + sum(map(len, finals)),
        num_diverged=num_diverged,
        num_above_unigram=num_above,
    )


def _std(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
