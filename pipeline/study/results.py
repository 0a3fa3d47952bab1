"""study_results.json: everything a study has measured, enough to draw its figures again.

    {"axes": [{"name": "guidance.weight", "labels": ["0", "7"]}, ...], "seeds": [0, 1], "unigram_loss": 6.9,
     "cells": [{"labels": ["7", "12"], "runs": [{"seed": 0, "curve": {...}, ...}, ...], ...}, ...],
     "arms": {"0": {...}, "7": {...}}}

The fields are those of the classes here, in curves.py and in comparison.py. What is not defined is null.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from data_prep.files import write_json_atomically
from pipeline.errors import DataError
from pipeline.study.comparison import (
    PairedDifference,
    RunComparison,
    Sensitivity,
    Spread,
    compare_runs,
    paired_difference,
    sensitivity_of,
    spread_of,
)
from pipeline.study.curves import Curve, read_curve
from pipeline.study.grid import Cell, Grid

RESULTS_NAME = "study_results.json"


@dataclass(frozen=True, kw_only=True)
class AxisNames:
    """An axis and what its choices are called."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A run.

    Attributes:
        seed: of it.
        step: of its last training line.
        training_seconds: before its last held-out evaluation; None if there was none.
        final_loss: held-out, at the end; None unless it is finished.
        curve: all of it.
        comparison: with the baseline's of the same seed; None where there is none, see compare_runs.
    """

    seed: int
    step: int
    training_seconds: float | None
    final_loss: float | None
    curve: Curve
    comparison: RunComparison | None


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """A cell over its seeds.

    Attributes:
        labels: one per axis.
        name: of its directory.
        settings: recipe keys with their values.
        baseline: name of the cell it is compared with; its own for a baseline.
        runs: one per seed, those that are missing too.
        final_loss: of the runs that finished.
        num_compared: runs that are over and whose baseline finished; the next two are over those of them that
            reached the baseline's final loss.
        steps_fraction: steps until then as a share of the baseline's.
        seconds_fraction: the same for training time.
        difference: of the final losses; None for a baseline.
        difference_at_equal_seconds: when the cell has trained for as long as the baseline in all.
    """

    labels: tuple[str, ...]
    name: str
    settings: dict[str, Any]
    baseline: str
    runs: tuple[RunResult, ...]
    final_loss: Spread | None
    num_compared: int
    steps_fraction: Spread | None
    seconds_fraction: Spread | None
    difference: PairedDifference | None
    difference_at_equal_seconds: PairedDifference | None

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with it."""
        return self.baseline == self.name


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """All of it; `arms` is by the labels of the first axis, `unigram_loss` None if nobody computed it."""

    axes: tuple[AxisNames, ...]
    seeds: tuple[int, ...]
    unigram_loss: float | None
    cells: tuple[CellResult, ...]
    arms: dict[str, Sensitivity]

    @property
    def settings(self) -> list[tuple[str, ...]]:
        """The choices on all axes but the first; one empty choice if there are no others."""
        return list(dict.fromkeys(cell.labels[1:] for cell in self.cells))

    def cell(self, arm: str, setting: tuple[str, ...]) -> CellResult:
        """That of an arm in a setting."""
        return next(cell for cell in self.cells if cell.labels == (arm, *setting))


def gather_results(study_dir: Path, grid: Grid, unigram_loss: float | None) -> StudyResults:
    """From the run directories of a study, finished or not; a DataError if there is no run at all."""
    curves = {
        cell.name: [read_curve(study_dir / "runs" / cell.name / f"seed-{seed}") for seed in grid.seeds]
        for cell in grid.cells()
    }
    if all(curve.state == "missing" for of_cell in curves.values() for curve in of_cell):
        raise DataError(f"{study_dir / 'runs'} holds no run of this study; run the study first")
    return summarize(grid, curves, unigram_loss)


def summarize(grid: Grid, curves: dict[str, list[Curve]], unigram_loss: float | None) -> StudyResults:
    """From the curves of every cell, by its name, one per seed."""
    cells = [_cell_result(cell, grid.baseline_of(cell), grid.seeds, curves) for cell in grid.cells()]
    axes = tuple(AxisNames(name=axis.name, labels=axis.labels) for axis in grid.axes)
    arms = {
        arm: sensitivity_of([curves[cell.name] for cell in cells if cell.labels[0] == arm], unigram_loss)
        for arm in axes[0].labels
    }
    return StudyResults(axes=axes, seeds=grid.seeds, unigram_loss=unigram_loss, cells=tuple(cells), arms=arms)


def write_results(study_dir: Path, results: StudyResults) -> Path:
    """Write study_results.json."""
    path = study_dir / RESULTS_NAME
    write_json_atomically(path, asdict(results))
    return path


def read_results(study_dir: Path) -> StudyResults:
    """Inverse of `write_results`; a DataError if the file is missing or damaged."""
    path = study_dir / RESULTS_NAME
    try:
        return TypeAdapter(StudyResults).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} cannot be read ({error}); gather the study's results again") from error


def _cell_result(
    cell: Cell, baseline: Cell, seeds: Sequence[int], curves: dict[str, list[Curve]]
) -> CellResult:
    comparisons = [compare_runs(*pair) for pair in zip(curves[cell.name], curves[baseline.name])]
    runs = tuple(
        _run_result(seed, curve, comparison)
        for seed, curve, comparison in zip(seeds, curves[cell.name], comparisons)
    )
    known = [comparison for comparison in comparisons if comparison is not None]
    # A baseline's difference from itself says nothing; when it first had its final loss does.
    compared = [(run, run.comparison) for run in runs if run.comparison and cell.name != baseline.name]
    finals = [(c.baseline_loss, run.final_loss) for run, c in compared if run.final_loss is not None]
    at_equal_seconds = [
        (c.baseline_loss, c.loss_at_equal_seconds) for _, c in compared if c.loss_at_equal_seconds is not None
    ]
    return CellResult(
        labels=cell.labels,
        name=cell.name,
        settings=cell.settings,
        baseline=baseline.name,
        runs=runs,
        final_loss=spread_of([run.final_loss for run in runs if run.final_loss is not None]),
        num_compared=len(known),
        steps_fraction=spread_of([c.steps_fraction for c in known if c.steps_fraction is not None]),
        seconds_fraction=spread_of([c.seconds_fraction for c in known if c.seconds_fraction is not None]),
        difference=paired_difference(finals),
        difference_at_equal_seconds=paired_difference(at_equal_seconds),
    )


def _run_result(seed: int, curve: Curve, comparison: RunComparison | None) -> RunResult:
    return RunResult(
        seed=seed,
        step=curve.train_steps[-1] if curve.train_steps else 0,
        training_seconds=curve.seconds[-1] if curve.seconds else None,
        final_loss=curve.final_loss,
        curve=curve,
        comparison=comparison,
    )
