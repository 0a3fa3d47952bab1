"""study_results.json: everything a study has measured, enough to draw its figures again.

    {"measure": {"figure": "loss", "unit": "nats per predicted token", "better": "lower", "at": "end", ...},
     "axes": [{"name": "guidance.weight", "labels": ["0", "7"]}, ...], "seeds": [0, 1], "unigram_loss": 6.9,
     "cells": [{"labels": ["7", "12"], "runs": [{"seed": 0, "curve": {...}, ...}, ...], ...}, ...],
     "arms": {"0": {...}, "7": {...}}}

The fields are those of the classes here, in measure.py, curves.py and comparison.py. What is not defined is
null. "measure" says what "values" and differences are of; results without it are of an older version, compare
held-out losses and have "loss" for "value" in the names of fields.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from data_prep.files import write_json_atomically
from pipeline.errors import DataError
from pipeline.study.comparison import (
    PairedDifference,
    RunComparison,
    Sensitivity,
    Spread,
    also_read,
    compare_runs,
    paired_difference,
    sensitivity_of,
    spread_of,
)
from pipeline.study.curves import Curve, read_curve
from pipeline.study.grid import Cell, Grid
from pipeline.study.measure import HELD_OUT_LOSS, At, Measure

RESULTS_NAME = "study_results.json"
ScoreOf = Callable[[Path, int], float | None]  # of a run and its last step


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
        final_value: of the measure, at the end; None unless it is finished.
        curve: all of it.
        comparison: with the baseline's of the same seed; None where there is none, see compare_runs.
    """

    seed: int
    step: int
    training_seconds: float | None
    final_value: Annotated[float | None, also_read("final_value", "final_loss")]
    curve: Curve
    comparison: RunComparison | None

    def difference_at(self, at: At) -> float | None:
        """From the baseline's value, where a measure takes it."""
        if self.comparison is None:
            return None
        value = self.comparison.value_at(at, self.final_value)
        return None if value is None else value - self.comparison.baseline_value


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """A cell over its seeds.

    Attributes:
        labels: one per axis.
        name: of its directory.
        settings: recipe keys with their values.
        baseline: name of the cell it is compared with; its own for a baseline.
        runs: one per seed, those that are missing too.
        final_value: of the runs that finished.
        num_compared: runs that are over and whose baseline finished; the next two are over those of them that
            reached the baseline's final value.
        steps_fraction: steps until then as a share of the baseline's.
        seconds_fraction: the same for training time.
        difference: of the final values; None for a baseline.
        difference_at_equal_seconds: when the cell has trained for as long as the baseline in all.
        difference_at_equal_steps: when it has taken as many steps.
    """

    labels: tuple[str, ...]
    name: str
    settings: dict[str, Any]
    baseline: str
    runs: tuple[RunResult, ...]
    final_value: Annotated[Spread | None, also_read("final_value", "final_loss")]
    num_compared: int
    steps_fraction: Spread | None
    seconds_fraction: Spread | None
    difference: PairedDifference | None
    difference_at_equal_seconds: PairedDifference | None
    difference_at_equal_steps: PairedDifference | None = None

    def difference_at(self, at: At) -> PairedDifference | None:
        """That where a measure takes it."""
        return {
            "end": self.difference,
            "steps": self.difference_at_equal_steps,
            "time": self.difference_at_equal_seconds,
        }[at]

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
    measure: Measure = HELD_OUT_LOSS

    @property
    def settings(self) -> list[tuple[str, ...]]:
        """The choices on all axes but the first; one empty choice if there are no others."""
        return list(dict.fromkeys(cell.labels[1:] for cell in self.cells))

    def cell(self, arm: str, setting: tuple[str, ...]) -> CellResult:
        """That of an arm in a setting."""
        return next(cell for cell in self.cells if cell.labels == (arm, *setting))


def gather_results(
    study_dir: Path,
    grid: Grid,
    unigram_loss: float | None,
    measure: Measure = HELD_OUT_LOSS,
    score_of: ScoreOf | None = None,
) -> StudyResults:
    """From the run directories of a study, finished or not; a DataError if there is no run at all.

    Args:
        study_dir: with runs/<cell>/seed-<n>/ in it.
        grid: of the study.
        unigram_loss: see `write_study`.
        measure: what runs are compared by.
        score_of: the value of a finished run, for a measure that is a task's.
    """

    def curve_of(path: Path) -> Curve:
        curve = read_curve(path, measure)
        if score_of is None or curve.state != "finished":
            return curve
        return replace(curve, task_value=score_of(path, curve.steps[-1]))

    curves = {
        cell.name: [curve_of(study_dir / "runs" / cell.name / f"seed-{seed}") for seed in grid.seeds]
        for cell in grid.cells()
    }
    if all(curve.state == "missing" for of_cell in curves.values() for curve in of_cell):
        raise DataError(f"{study_dir / 'runs'} holds no run of this study; run the study first")
    return summarize(grid, curves, unigram_loss, measure)


def summarize(
    grid: Grid,
    curves: dict[str, list[Curve]],
    unigram_loss: float | None,
    measure: Measure = HELD_OUT_LOSS,
) -> StudyResults:
    """From the curves of every cell, by its name, one per seed."""
    cells = [_cell_result(cell, grid, curves, measure) for cell in grid.cells()]
    unigram_loss = unigram_loss if measure.is_loss else None
    axes = tuple(AxisNames(name=axis.name, labels=axis.labels) for axis in grid.axes)
    arms = {
        arm: sensitivity_of(
            [curves[cell.name] for cell in cells if cell.labels[0] == arm], unigram_loss, measure
        )
        for arm in axes[0].labels
    }
    return StudyResults(
        measure=measure,
        axes=axes,
        seeds=grid.seeds,
        unigram_loss=unigram_loss,
        cells=tuple(cells),
        arms=arms,
    )


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


def _cell_result(cell: Cell, grid: Grid, curves: dict[str, list[Curve]], measure: Measure) -> CellResult:
    baseline = grid.baseline_of(cell)
    comparisons = [compare_runs(*pair, measure) for pair in zip(curves[cell.name], curves[baseline.name])]
    runs = tuple(
        _run_result(seed, curve, comparison)
        for seed, curve, comparison in zip(grid.seeds, curves[cell.name], comparisons)
    )
    known = [comparison for comparison in comparisons if comparison is not None]
    # A baseline's difference from itself says nothing; when it first had its final value does.
    compared = [(run, run.comparison) for run in runs if run.comparison and cell.name != baseline.name]

    def difference_at(at: At) -> PairedDifference | None:
        values = [(c.baseline_value, c.value_at(at, run.final_value)) for run, c in compared]
        return paired_difference([(before, value) for before, value in values if value is not None])

    return CellResult(
        labels=cell.labels,
        name=cell.name,
        settings=cell.settings,
        baseline=baseline.name,
        runs=runs,
        final_value=spread_of([run.final_value for run in runs if run.final_value is not None]),
        num_compared=len(known),
        steps_fraction=spread_of([c.steps_fraction for c in known if c.steps_fraction is not None]),
        seconds_fraction=spread_of([c.seconds_fraction for c in known if c.seconds_fraction is not None]),
        difference=difference_at("end"),
        difference_at_equal_seconds=difference_at("time"),
        difference_at_equal_steps=difference_at("steps"),
    )


def _run_result(seed: int, curve: Curve, comparison: RunComparison | None) -> RunResult:
    return RunResult(
        seed=seed,
        step=curve.train_steps[-1] if curve.train_steps else 0,
        training_seconds=curve.seconds[-1] if curve.seconds else None,
        final_value=curve.final_value,
        curve=curve,
        comparison=comparison,
    )
