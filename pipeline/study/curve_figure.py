"""What runs are compared by while they train, over steps and over training time; with a task, their loss."""

from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.report.style import STYLE
from pipeline.study.comparison import Values
from pipeline.study.curves import Curve
from pipeline.study.labels import arm_colors, figure_legend, panel_grid, plain
from pipeline.study.measure import HELD_OUT_LOSS, Measure
from pipeline.study.results import StudyResults

_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
_Positions = Callable[[Curve], Sequence[float]]


def draw_curves(results: StudyResults) -> Figure:
    """A line per arm: the mean over finished runs in a band from their least to their greatest, runs thin.

    Rows are the choices on the second axis. Over steps on the left and over time on the right; on either side
    a column per choice on all further axes. Runs that are not finished are dashed and in no mean.
    """
    rows, across = panel_grid(results)
    longest = max((run.training_seconds or 0.0 for cell in results.cells for run in cell.runs), default=0.0)
    seconds, unit = next((unit for unit in _UNITS if longest >= 2 * unit[0]), _UNITS[-1])
    sides: list[tuple[str, _Positions]] = [
        ("step", lambda curve: curve.steps),
        (f"training time ({unit})", lambda curve: [second / seconds for second in curve.seconds]),
    ]
    width = 3.9 if len(across) == 1 else 2.3 * len(across)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2 * width, 2.5 * len(rows) + 0.8))
        panels = figure.subplots(len(rows), 2 * len(across), squeeze=False, sharey="row")
        for row, of_row in zip(rows, panels):
            for (label, positions), of_side in zip(sides, np.split(of_row, 2)):
                for column, axes in zip(across, of_side):
                    _draw_panel(axes, results, (*row, *column), positions)
                    if row == rows[-1]:
                        axes.set_xlabel(label)
            of_row[0].set_ylabel(plain(_drawn(results).label))
            of_row[0].set_ylim(_limits(results, row))
        unigram = Line2D([], [], color="0.4", ls=":", lw=1.5, label="unigram model")
        further = [] if results.unigram_loss is None else [unigram]
        figure_legend(figure, results, results.axes[0].labels, *further)
    return figure


def _draw_panel(axes: Axes, results: StudyResults, setting: tuple[str, ...], positions: _Positions) -> None:
    names = [axis.name.rpartition(".")[2] for axis in results.axes[1:]]
    title = "\n".join(f"{name} = {label}" for name, label in zip(names, setting))
    axes.set_title(plain(title), fontsize=9)
    if results.unigram_loss is not None:
        axes.axhline(results.unigram_loss, color="0.4", ls=":", lw=1.5)
    for arm, color in arm_colors(results).items():
        curves = [run.curve for run in results.cell(arm, setting).runs]
        for curve in curves:
            style = "-" if curve.state == "finished" else "--"
            axes.plot(
                positions(curve),
                np.array(_values(results, curve), dtype=float),
                color=color,
                lw=0.7,
                ls=style,
                alpha=0.5,
            )
        finished = [curve for curve in curves if curve.state == "finished"]
        if finished:
            at, values = _common(results, finished, positions)
            axes.plot(at, values.mean(0), color=color, lw=2)
            axes.fill_between(at, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)


def _drawn(results: StudyResults) -> Measure:
    return results.measure if results.measure.task is None else HELD_OUT_LOSS


def _values(results: StudyResults, curve: Curve) -> Values:
    return curve.compared if results.measure.task is None else curve.losses


def _common(
    results: StudyResults, curves: Sequence[Curve], positions: _Positions
) -> tuple[np.ndarray, np.ndarray]:
    """Mean positions (E,) and values (runs, E) at the steps where all have been evaluated."""
    steps = sorted(set.intersection(*(set(curve.steps) for curve in curves)))
    at, values = [], []
    for curve in curves:
        index = np.searchsorted(curve.steps, steps)
        at.append(np.array(positions(curve), dtype=float)[index])
        values.append(np.array(_values(results, curve), dtype=float)[index])
    return np.mean(at, axis=0), np.array(values)


def _limits(results: StudyResults, row: tuple[str, ...]) -> tuple[float, float] | None:
    """From the best value to the worst first or final one: one that diverges must not flatten the others."""
    cells = [cell for cell in results.cells if cell.labels[1:2] == row]
    curves = [run.curve for cell in cells for run in cell.runs if run.curve.losses]
    ends = [
        value
        for curve in curves
        for values in [_values(results, curve)]
        for value in (values[0], values[-1] if curve.state == "finished" else None)
        if value is not None
    ]
    if not ends:
        return None
    reached = [value for curve in curves for value in _values(results, curve) if value is not None]
    if _drawn(results).better == "lower":
        bottom, top = min(reached), max(ends)
    else:
        bottom, top = min(ends), max(reached)
    margin = 0.05 * (top - bottom) or 0.1
    return bottom - margin, top + margin
