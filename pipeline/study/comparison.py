"""What runs say when they are compared with a baseline's, seed by seed.

A cell's run and the baseline's of the same seed begin at the same weights and see the same rows and masks in
the same order, as far as the settings allow, so they are compared in pairs: what a seed does to both cancels.
Losses are held-out, in nats per predicted token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.study.curves import Curve

_CONFIDENCE = 0.95
Losses = Sequence[float | None]


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
        relative_percent: mean difference in percent of the baseline's mean.
        p_value: of a two-sided paired t-test; like the interval None for one pair or equal differences.
        interval: the mean's 95 % t interval.
        num_lower: pairs in which the cell is lower.
        num_higher: pairs in which it is higher.
    """

    num_pairs: int
    mean: float
    std: float | None
    relative_percent: float
    p_value: float | None
    interval: tuple[float, float] | None
    num_lower: int
    num_higher: int


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """A run beside the baseline's of the same seed. The target is the baseline's final loss.

    Attributes:
        baseline_loss: the target.
        difference: of the final losses, None if this run has none; negative is better.
        steps: at which the target is first reached; None for never.
        seconds: of training until then.
        steps_fraction: the same as a share of all the steps that the baseline took, ...
        seconds_fraction: ... and of all its seconds.
        loss_at_equal_seconds: this run's loss when it has trained for as long as the baseline in all, or in
            the end if it was finished before; None if it diverged, and before its first evaluation.
    """

    baseline_loss: float
    difference: float | None
    steps: float | None
    seconds: float | None
    steps_fraction: float | None
    seconds_fraction: float | None
    loss_at_equal_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """How much the final loss of an arm depends on the other axes: over cells, of their mean over seeds.

    Attributes:
        num_cells: cells with a finished run; the next four are over these.
        best: lowest.
        median: of the cells.
        worst: highest.
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


def first_reach(positions: Sequence[float], losses: Losses, target: float) -> float | None:
    """Where a curve first comes down to a target, linear between evaluations; None for never.

    At the first evaluation, or after one that was not finite, there is nothing to interpolate from: then it
    is that evaluation's position, at which the target was reached at the latest.

    Args:
        positions: of the evaluations, rising, in any unit.
        losses: at them.
        target: a loss. It may rise above it again later; that does not count.
    """
    for index, loss in enumerate(losses):
        if loss is None or loss > target:
            continue
        before = losses[index - 1] if index else None
        if before is None:
            return positions[index]
        share = (before - target) / (before - loss)
        return positions[index - 1] + share * (positions[index] - positions[index - 1])
    return None


def loss_at(positions: Sequence[float], losses: Losses, position: float) -> float | None:
    """A curve's loss, linear between evaluations, the last one after them; None before or if not finite."""
    if not positions or position < positions[0]:
        return None
    loss = float(np.interp(position, positions, np.array(losses, dtype=float)))
    return loss if math.isfinite(loss) else None


def compare_runs(run: Curve, baseline: Curve) -> RunComparison | None:
    """A run with the baseline's of the same seed; None if it is not over, or the baseline has no final loss.

    The baseline compared with itself says when it first had its final loss, which may be before its end.
    """
    target = baseline.final_loss
    if target is None or not run.is_over:
        return None
    all_seconds = baseline.seconds[-1]
    steps = first_reach(run.steps, run.losses, target)
    seconds = first_reach(run.seconds, run.losses, target)
    return RunComparison(
        baseline_loss=target,
        difference=None if run.final_loss is None else run.final_loss - target,
        steps=steps,
        seconds=seconds,
        steps_fraction=None if steps is None else steps / baseline.steps[-1],
        seconds_fraction=None if seconds is None or not all_seconds else seconds / all_seconds,
        loss_at_equal_seconds=(
            loss_at(run.seconds, run.losses, all_seconds) if run.state == "finished" else None
        ),
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
        relative_percent=float(100 * differences.mean() / baseline.mean()),
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


def sensitivity_of(cells: Sequence[Sequence[Curve]], unigram_loss: float | None) -> Sensitivity:
    """Of an arm.

    Args:
        cells: for every choice on the other axes, its runs.
        unigram_loss: loss above which a run has learned not even how frequent tokens are.
    """
    losses = [[run.final_loss for run in runs if run.final_loss is not None] for runs in cells]
    means = [float(np.mean(of_cell)) for of_cell in losses if of_cell]
    num_diverged = sum(run.state == "diverged" for runs in cells for run in runs)
    num_above = None
    if unigram_loss is not None:
        num_above = num_diverged + sum(loss > unigram_loss for of_cell in losses for loss in of_cell)
    return Sensitivity(
        num_cells=len(means),
        best=min(means, default=None),
        median=float(np.median(means)) if means else None,
        worst=max(means, default=None),
        std=_std(means),
        num_runs=num_diverged + sum(map(len, losses)),
        num_diverged=num_diverged,
        num_above_unigram=num_above,
    )


def _std(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
