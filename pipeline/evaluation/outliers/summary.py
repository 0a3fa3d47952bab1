"""Figures and table of task ood."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from pipeline.evaluation.fine_tuning.seeds import mean_and_deviation
from pipeline.evaluation.outliers.exposure import NUM_DRAWS
from pipeline.evaluation.task import Measured, Summary

_MIN_EXAMPLES_PER_DIMENSION = 10
_NAMES = {
    "relative_mahalanobis": "relative Mahalanobis",
    "mahalanobis": "Mahalanobis",
    "energy": "energy",
    "max_softmax": "max softmax",
    "one_gaussian": "one Gaussian, no labels",
}
_HEADER = ("encoder", "score", "AUROC", "std", "AUPR", "FPR at 95 % TPR", "accuracy")

Row = list[str | float | None]


def summarize(measured: Mapping[str, Sequence[Measured]]) -> Summary:
    """Mean over the seeds, for every score.

    Args:
        measured: "frozen" and "fine-tuned", or one of them -> what was measured of it, once per seed.
    """
    numbers: dict[str, float] = {}
    rows: list[Row] = []
    for encoder, found in measured.items():
        accuracy = _accuracy(found)
        numbers |= _numbers(encoder, found)
        rows += [*_score_rows(encoder, found, accuracy), *_exposure_rows(encoder, found, accuracy)]
    any_one = next(iter(measured.values()))[0]
    return Summary(numbers, _HEADER, rows, _notes(any_one, measured))


def _numbers(encoder: str, found: Sequence[Measured]) -> dict[str, float]:
    """By names such as "frozen/mahalanobis/auroc"."""
    numbers = {
        f"{encoder}/{score}/{figure}": fmean(one["scores"][score][figure] for one in found)
        for score in _NAMES
        for figure in ("auroc", "aupr", "fpr_at_95_tpr")
    }
    for kind in ("exposure", "control"):
        for shots in found[0][kind]:
            numbers[f"{encoder}/{kind}-{shots}/auroc"] = fmean(one[kind][shots]["auroc"] for one in found)
    numbers[f"{encoder}/accuracy"] = _accuracy(found)
    return numbers


def _score_rows(encoder: str, found: Sequence[Measured], accuracy: float) -> list[Row]:
    rows: list[Row] = []
    for score, name in _NAMES.items():
        each = [one["scores"][score] for one in found]
        auroc = mean_and_deviation([figures["auroc"] for figures in each])
        others = [fmean(figures[figure] for figures in each) for figure in ("aupr", "fpr_at_95_tpr")]
        rows.append([encoder, name, *auroc, *others, accuracy])
    return rows


def _exposure_rows(encoder: str, found: Sequence[Measured], accuracy: float) -> list[Row]:
    """The deviation is that over draws, in the mean over the seeds."""
    return [
        [
            encoder,
            f"{text} {shots}",
            fmean(one[kind][shots]["auroc"] for one in found),
            fmean(one[kind][shots]["auroc_std"] for one in found),
            None,
            None,
            accuracy,
        ]
        for kind, text in (("exposure", "exposure, outliers:"), ("control", "control, held-out queries:"))
        for shots in found[0][kind]
    ]


def _accuracy(found: Sequence[Measured]) -> float:
    return fmean(one["accuracy"] for one in found)


def _notes(one: Measured, measured: Mapping[str, Sequence[Measured]]) -> list[str]:
    share = one["num_outside"] / (one["num_inside"] + one["num_outside"])
    notes = [
        f"  {one['num_inside']:,} queries in scope, {one['num_outside']:,} out of scope; AUPR of chance "
        f"{share:.4g}; accuracy is that on the queries in scope",
        f"  std of exposure and control: over {NUM_DRAWS} draws of the examples shown",
    ]
    if (num_seeds := len(measured.get("fine-tuned", []))) > 1:
        notes.append(f"  std of the other scores, fine-tuned: over {num_seeds} seeds")
    return [*notes, *_warnings(one, measured)]


def _warnings(one: Measured, measured: Mapping[str, Sequence[Measured]]) -> list[str]:
    warnings = []
    accuracies = {encoder: _accuracy(found) for encoder, found in measured.items()}
    if len(accuracies) == 2 and accuracies["fine-tuned"] < accuracies["frozen"]:
        warnings.append(
            f"  warning: accuracy fine-tuned, {accuracies['fine-tuned']:.4g}, is below frozen, "
            f"{accuracies['frozen']:.4g}: try more --epochs or another --learning-rate"
        )
    ratio = one["num_train"] / one["num_dimensions"]
    if ratio < _MIN_EXAMPLES_PER_DIMENSION:
        warnings.append(
            f"  warning: {one['num_train']:,} training queries for {one['num_dimensions']:,} dimensions are "
            f"{ratio:.1f} each; below {_MIN_EXAMPLES_PER_DIMENSION} Mahalanobis distances say little"
        )
    return warnings
