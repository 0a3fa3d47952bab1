"""Figures of an objective's metrics: the loss by itself, the others in panels side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.objectives.protocol import Metric
from pipeline.report.style import STYLE

Lines = Sequence[Mapping[str, Any]]
_COLUMNS = 2


def draw_metrics(
    path: Path, metrics: Sequence[Metric], train: Lines, valid: Lines, baseline: Mapping[str, float]
) -> None:
    """A panel for each metric: while training, on the held-out rows, and what knows nothing of context."""
    columns = min(_COLUMNS, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4 if columns == 1 else 4.8 * columns, 3.4 * rows))
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for metric, axes in zip(metrics, panels):
            _draw_metric(axes, metric, train, valid, baseline.get(metric.name))
        for axes in panels[len(metrics) :]:
            axes.set_visible(False)
        figure.savefig(path)


def _draw_metric(axes: Axes, metric: Metric, train: Lines, valid: Lines, baseline: float | None) -> None:
    if not metric.only_held_out:
        axes.plot(*_points(train, metric.name), color="C0", alpha=0.6, label="training")
    axes.plot(*_points(valid, metric.name), color="C1", marker="o", ms=4, label="held-out")
    if baseline is not None:
        axes.axhline(baseline, color="0.4", ls="--", label=f"unigram model ({baseline:.2f})")
    name = metric.name.replace("_", " ")
    axes.set(xlabel="step", ylabel=f"{name} ({metric.unit})" if metric.unit else name)
    axes.legend(frameon=False)


def _points(lines: Lines, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values; lines from before the metric was there are left out, and NaN makes a gap."""
    known = [line for line in lines if name in line]
    steps, values = ([line[field] for line in known] for field in ("step", name))
    return np.array(steps, dtype=float), np.array(values, dtype=float)
