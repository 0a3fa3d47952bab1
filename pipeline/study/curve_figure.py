"""Held-out loss while training, over steps and over training time."""

from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.report.style import STYLE
from pipeline.study.curves import Curve
from pipeline.study.labels import arm_colors, figure_legend, panel_grid, plain
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
            of_row[0].set_ylabel("held-out loss\n(nats per predicted token)")
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
                np.array(curve.losses, dtype=float),
                color=color,
                lw=0.7,
                ls=style,
                alpha=0.5,
            )
        finished = [curve for curve in curves if curve.state == "finished"]
        if finished:
            at, losses = _common(finished, positions)
            axes.plot(at, losses.mean(0), color=color, lw=2)
            axes.fill_between(at, losses.min(0), losses.max(0), color=color, alpha=0.15, lw=0)


def _common(curves: Sequence[Curve], positions: _Positions) -> tuple[np.ndarray, np.ndarray]:
    """Mean positions (E,) and losses (runs, E) at the steps where all have been evaluated."""
    steps = sorted(set.intersection(*(set(curve.steps) for curve in curves)))
    at, losses = [], []
    for curve in curves:
        index = np.searchsorted(curve.steps, steps)
        at.append(np.array(positions(curve), dtype=float)[index])
        losses.append(np.array(curve.losses, dtype=float)[index])
    return np.mean(at, axis=0), np.array(losses)


def _limits(results: StudyResults, row: tuple[str, ...]) -> tuple[float, float] | None:
    """From the lowest to the highest first or final loss: a run that diverges must not flatten the others."""
    cells = [cell for cell in results.cells if cell.labels[1:2] == row]
    curves = [run.curve for cell in cells for run in cell.runs if run.curve.losses]
    ends = [loss for curve in curves for loss in (curve.losses[0], curve.final_loss) if loss is not None]
    if not ends:
        return None
    top = max(ends)
    bottom = min(loss for curve in curves for loss in curve.losses if loss is not None)
    margin = 0.05 * (top - bottom) or 0.1
    return bottom - margin, top + margin
