"""The figures of a study, from its results alone."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.report.style import STYLE
from pipeline.study.curve_figure import draw_curves
from pipeline.study.labels import arm_colors, figure_legend, panel_grid, plain
from pipeline.study.measure import HELD_OUT_LOSS, Measure
from pipeline.study.results import CellResult, RunResult, StudyResults

_LABEL_COLUMNS = 11  # letters of a tick label before it is broken
_MAP_COLORS = "viridis"
_REACHED = {
    "steps_fraction": "steps to the baseline's final {figure}\n(share of the baseline's steps)",
    "seconds_fraction": "time to the baseline's final {figure}\n(share of the baseline's time)",
}


def draw_study(directory: Path, results: StudyResults) -> list[Path]:
    """Draw all that the measure has; returns the files."""
    drawn = {"curves.png": draw_curves(results)}
    if results.measure.task is None:
        drawn["speed.png"] = draw_speed(results)
    else:  # one of another measure would be taken for this one's
        (directory / "speed.png").unlink(missing_ok=True)
    drawn |= {
        "sensitivity.png": draw_sensitivity(results),
        "difference.png": draw_difference(results),
    }
    with mpl.rc_context(STYLE):
        for name, figure in drawn.items():
            figure.savefig(directory / name)
    return [directory / name for name in drawn]


def draw_speed(results: StudyResults) -> Figure:
    """How soon each arm has the baseline's final value, in steps and in time; a point per seed."""
    columns = _Columns(results, results.axes[0].labels[1:])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2 * columns.width, columns.height))
        for axes, (field, label) in zip(figure.subplots(1, 2), _REACHED.items()):
            never = []
            for x, color, cell in columns.cells():
                compared = [run.comparison for run in cell.runs if run.comparison is not None]
                shares = [getattr(comparison, field) for comparison in compared]
                never += [(x, color)] * shares.count(None)
                _draw_points(axes, x, [share for share in shares if share is not None], color)
            axes.axhline(1, color="0.4", ls="--", lw=1)
            axes.set_ylabel(plain(label.format(figure=results.measure.figure)))
            axes.set_ylim(bottom=0, top=max(1.1, 1.05 * axes.get_ylim()[1]))
            _mark_above(axes, never, "never")
            columns.label(axes)
        columns.add_legend(figure)
    return figure


def draw_difference(results: StudyResults) -> Figure:
    """Value minus the baseline's: a point per seed, their mean and its 95 % interval."""
    columns, measure = _Columns(results, results.axes[0].labels[1:]), results.measure
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, columns.width), columns.height))
        axes = figure.subplots()
        axes.axhline(0, color="0.4", ls="--", lw=1)
        for x, color, cell in columns.cells():
            differences = [run.difference_at(measure.at) for run in cell.runs]
            _draw_points(axes, x, [value for value in differences if value is not None], color)
            difference = cell.difference_at(measure.at)
            if difference is not None and difference.interval is not None:
                axes.vlines(x, *difference.interval, color=color, lw=1.5)
        axes.set_ylabel(plain(_difference_label(measure)))
        columns.label(axes)
        columns.add_legend(figure)
    return figure


def _difference_label(measure: Measure) -> str:
    if measure == HELD_OUT_LOSS:
        return "final held-out loss minus the\nbaseline's (nats, 95 % interval)"
    what = f"{measure.name}{measure.where}" if measure.where else f"final {measure.name}"
    return f"{what} minus the\nbaseline's ({measure.unit}; {measure.better} is better)"


def draw_sensitivity(results: StudyResults) -> Figure:
    """Final value over the other axes: a line per arm, or a map per arm if there are two or more."""
    return _draw_maps(results) if len(results.axes) > 2 else _draw_lines(results)


def _draw_lines(results: StudyResults) -> Figure:
    columns = _Columns(results, results.axes[0].labels, spread=0.0)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, columns.width), columns.height))
        axes = figure.subplots()
        means: dict[str, list[tuple[float, float]]] = {}
        diverged = []
        for x, color, cell in columns.cells():
            _draw_points(axes, x, _final_values(cell.runs), color)
            diverged += [(x, color)] * _num_diverged(cell)
            if cell.final_value is not None:
                means.setdefault(color, []).append((x, cell.final_value.mean))
        if len(results.axes) > 1:
            for color, line in means.items():
                axes.plot(*zip(*line), color=color, lw=1.5)
        axes.set_ylabel(plain(f"final {results.measure.label}"))
        _mark_unigram(axes, results.unigram_loss)
        _mark_above(axes, diverged, "diverged")
        columns.label(axes)
        columns.add_legend(figure)
    return figure


def _draw_maps(results: StudyResults) -> Figure:
    rows, across = panel_grid(results)
    arms = results.axes[0].labels
    means = [cell.final_value.mean for cell in results.cells if cell.final_value is not None]
    scale = Normalize(min(means, default=0.0), max(means, default=1.0))
    with mpl.rc_context(STYLE):
        size = ((0.75 * len(across) + 0.5) * len(arms) + 1.8, 0.55 * len(rows) + 1.6)
        figure = Figure(figsize=size)
        panels = figure.subplots(1, len(arms), squeeze=False, sharey=True)[0]
        for axes, arm in zip(panels, arms):
            cells = [[results.cell(arm, (*row, *column)) for column in across] for row in rows]
            _draw_map(axes, cells, scale)
            axes.set_title(plain(f"{results.axes[0].name} = {arm}"), fontsize=9)
            axes.set_xticks(range(len(across)), ["\n".join(map(plain, labels)) for labels in across])
            axes.set_yticks(range(len(rows)), [plain(labels[0]) for labels in rows])
        figure.supxlabel(plain(",\n".join(axis.name for axis in results.axes[2:])), fontsize=10)
        panels[0].set_ylabel(plain(results.axes[1].name))
        figure.colorbar(
            mpl.cm.ScalarMappable(scale, _MAP_COLORS),
            ax=panels.tolist(),
            label=plain(f"final {results.measure.label}"),
        )
    return figure


def _draw_map(axes: Axes, cells: Sequence[Sequence[CellResult]], scale: Normalize) -> None:
    """Cells (rows, columns) with the mean in each, and what became of runs without one."""
    means = [[math.nan if c.final_value is None else c.final_value.mean for c in row] for row in cells]
    axes.imshow(means, norm=scale, cmap=_MAP_COLORS, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            text = "-" if cell.final_value is None else f"{cell.final_value.mean:.3f}"
            if num_diverged := _num_diverged(cell):
                text = f"{text}\n{num_diverged} div."
            is_dark = cell.final_value is not None and scale(cell.final_value.mean) < 0.6
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if is_dark else "black")


class _Columns:
    """Places on the horizontal axis: a tick per choice on the other axes, or per arm if there are none."""

    def __init__(self, results: StudyResults, arms: Sequence[str], spread: float = 0.5) -> None:
        """For these arms, which share a tick within `spread` of its width."""
        self._results, self._arms = results, arms
        self._colors = arm_colors(results)
        self._per_arm = len(results.axes) == 1
        self._offsets = np.linspace(-spread / 2, spread / 2, len(arms)) if len(arms) > 1 else np.zeros(1)
        num_ticks = len(arms) if self._per_arm else len(results.settings)
        self.height = 3.4 + 0.4 * len(results.axes)
        self.width = 1.6 + max(2.4, (0.9 if self._per_arm else 0.35 + 0.25 * len(arms)) * num_ticks)

    def cells(self) -> list[tuple[float, str, CellResult]]:
        """Place and color of every cell of the arms."""
        return [
            (
                number if self._per_arm else tick + self._offsets[number],
                self._colors[arm],
                self._results.cell(arm, setting),
            )
            for number, arm in enumerate(self._arms)
            for tick, setting in enumerate(self._results.settings)
        ]

    def label(self, axes: Axes) -> None:
        """Put names to the ticks."""
        if self._per_arm:
            names: list[tuple[str, ...]] = [(arm,) for arm in self._arms]
            axis_names = [self._results.axes[0].name]
        else:
            names = self._results.settings
            axis_names = [axis.name for axis in self._results.axes[1:]]
        labels = [
            "\n".join(textwrap.fill(plain(name), _LABEL_COLUMNS) for name in labels) for labels in names
        ]
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.set_xlabel(plain(",\n".join(axis_names)))
        axes.grid(visible=False, axis="x")

    def add_legend(self, figure: Figure) -> None:
        """Name the arms, unless the ticks do."""
        if not self._per_arm:
            figure_legend(figure, self._results, self._arms)


def _draw_points(axes: Axes, x: float, values: Sequence[float], color: str) -> None:
    """A point per seed, side by side in the order of seeds, and a bar at their mean."""
    beside = np.linspace(-0.04, 0.04, len(values)) if len(values) > 1 else np.zeros(len(values))
    axes.plot(x + beside, values, ls="", marker="o", ms=4, mew=0, alpha=0.6, color=color)
    if values:
        axes.hlines(np.mean(values), x - 0.1, x + 0.1, color=color, lw=2.5)


def _mark_above(axes: Axes, places: Sequence[tuple[float, str]], meaning: str) -> None:
    """Crosses above all else for runs that have no value, with what that means."""
    if not places:
        return
    bottom, top = axes.get_ylim()
    height = top + 0.06 * (top - bottom)
    for x, color in places:
        axes.add_line(Line2D([x], [height], marker="x", ms=7, mew=2, color=color))
    axes.set_ylim(bottom, top + 0.12 * (top - bottom))
    axes.text(1.01, height, meaning, transform=axes.get_yaxis_transform(), va="center", fontsize=9)


def _mark_unigram(axes: Axes, loss: float | None) -> None:
    """A line at the unigram model's loss, if any run ends near it."""
    bottom, top = axes.get_ylim()
    if loss is not None and bottom <= loss <= top:
        axes.axhline(loss, color="0.4", ls=":", lw=1.5)
        axes.text(1.01, loss, "unigram", transform=axes.get_yaxis_transform(), va="center", fontsize=9)


def _final_values(runs: Sequence[RunResult]) -> list[float]:
    return [run.final_value for run in runs if run.final_value is not None]


def _num_diverged(cell: CellResult) -> int:
    return sum(run.curve.state == "diverged" for run in cell.runs)
