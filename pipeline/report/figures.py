"""The report's figures, from metrics.jsonl lines and attention maps to PNG files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.guidance.allocation import Allocation
from pipeline.report.attention_maps import SentenceAttention, pattern_map
from pipeline.report.style import STYLE

Lines = Sequence[dict[str, Any]]
_MAP_COLORS = "magma_r"


def draw_rates(path: Path, train: Lines) -> None:
    """Learning rate and guidance weight."""

    def draw(axes: Axes) -> None:
        axes.plot(_column(train, "step"), _column(train, "learning_rate"), color="C0")
        axes.set(xlabel="step", ylabel="learning rate")
        axes.set_ylim(bottom=0)
        axes.yaxis.label.set_color("C0")
        for name in ("guidance_weight", "guidance_bias"):
            if not any(line.get(name) for line in train):
                continue
            right = axes.twinx()
            right.plot(_column(train, "step"), _column(train, name), color="C2")
            right.set_ylabel(name.replace("_", " "), color="C2")
            right.set_ylim(bottom=0)
            right.grid(visible=False)

    _save(path, draw)


_SHARES = {
    "guidance_share": ("guidance", "C2"),
    "loader_share": ("waiting for data", "C3"),
    "communication_share": ("communication", "C4"),
    "mfu": ("model FLOPs utilization", "C1"),
}


def draw_throughput(path: Path, train: Lines) -> None:
    """Tokens per second, and the shares that the run has measured: older ones know fewer, as do CPUs."""

    def draw(axes: Axes) -> None:
        steps = _column(train, "step")
        axes.plot(steps, _column(train, "tokens_per_second"), color="C0")
        axes.set(xlabel="step", ylabel="real tokens per second")
        axes.yaxis.label.set_color("C0")
        axes.set_ylim(bottom=0)
        right = axes.twinx()
        for name, (label, color) in _SHARES.items():
            shares = np.array([line.get(name) for line in train], dtype=float)
            if not np.isnan(shares).all():
                right.plot(steps, 100 * shares, color=color, lw=1, label=label)
        right.set_ylabel("share (%)")
        right.set_ylim(0, 100)
        right.grid(visible=False)
        right.legend(frameon=False, loc="center right")

    _save(path, draw)


def draw_guidance_error(path: Path, train: Lines, names: Sequence[str]) -> None:
    """Mean row error of each pattern while training."""

    def draw(axes: Axes) -> None:
        for name in names:
            errors = [line.get("guidance_error", {}).get(name) for line in train]
            axes.plot(_column(train, "step"), np.array(errors, dtype=float), label=name)
        axes.set(xlabel="step", ylabel="mean row error")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)

    _save(path, draw)


def draw_guidance_mass(path: Path, valid: Lines, names: Sequence[str], num_layers: int) -> None:
    """Held-out attention mass on target, layer by step, one panel per pattern."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * len(names) + 0.8, 2.8))
        panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
        steps = _column(valid, "step")
        for axes, name in zip(panels, names):
            nothing = [None] * num_layers  # lines from before these heads were guided
            mass = np.array(
                [line.get("guidance_mass", {}).get(name, nothing) for line in valid], dtype=float
            ).T
            layers = np.arange(len(mass))
            image = axes.pcolormesh(_edges(steps), _edges(layers), mass, vmin=0, vmax=1, cmap="viridis")
            axes.set(title=name, xlabel="step", yticks=layers)
            axes.grid(visible=False)
        panels[0].set_ylabel("layer")
        figure.colorbar(image, ax=panels.tolist(), label="attention on target")
        figure.savefig(path)


def draw_attention_maps(path: Path, sentence: SentenceAttention, allocation: Allocation) -> None:
    """A row of maps per pattern, its target and its first head in several layers, and one of a free head."""
    probs = sentence.snapshots[-1].probs
    num_layers, num_heads = probs.shape[:2]
    spread = {round(x) for x in np.linspace(0, num_layers - 1, min(4, num_layers))}
    # A pattern of few layers must be seen in one of them.
    layers = sorted(spread | {min(_head_of(allocation, name)) for name in allocation.names})

    def maps_of(head_of: dict[int, int]) -> list[_Map]:
        return [(f"layer {n}", probs[n, head_of[n]] if n in head_of else None) for n in layers]

    rows = [
        _MapRow(name, _target_map(allocation, name, sentence), maps_of(_head_of(allocation, name)))
        for name in allocation.names
    ]
    if allocation.num_heads < num_heads:
        free = num_heads - 1
        rows.append(_MapRow(f"free (head {free})", None, maps_of(dict.fromkeys(layers, free))))
    _draw_maps(path, rows, sentence.tokens)


def draw_forming(path: Path, sentence: SentenceAttention, allocation: Allocation) -> None:
    """A row of maps per pattern: its target, and the first head of its middle layer at each snapshot."""
    rows = []
    for name in allocation.names:
        head_of = _head_of(allocation, name)
        layer = sorted(head_of)[len(head_of) // 2]
        maps: list[_Map] = [
            (f"step {snapshot.step:,}", snapshot.probs[layer, head_of[layer]])
            for snapshot in sentence.snapshots
        ]
        rows.append(_MapRow(f"{name}, layer {layer}", _target_map(allocation, name, sentence), maps))
    _draw_maps(path, rows, sentence.tokens)


_Map = tuple[str, np.ndarray | None]  # a title, and attention (N, N) if there is any


class _MapRow(NamedTuple):
    """A row of attention maps beside the pattern that they should show, if any."""

    title: str
    target: np.ndarray | None
    maps: list[_Map]


def _draw_maps(path: Path, rows: Sequence[_MapRow], tokens: list[str]) -> None:
    with mpl.rc_context(STYLE):
        columns = len(rows[0].maps) + 1
        figure = Figure(figsize=(2.3 * columns, 2.4 * len(rows)))
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for panels, row in zip(grid, rows):
            _draw_map(panels[0], row.target, tokens, "pattern")
            panels[0].set_ylabel(row.title)
            for axes, (title, attention) in zip(panels[1:], row.maps):
                _draw_map(axes, attention, None, title)
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), _MAP_COLORS)
        figure.colorbar(scale, ax=grid.ravel().tolist(), label="attention", shrink=0.5, aspect=30)
        figure.savefig(path)


def _head_of(allocation: Allocation, name: str) -> dict[int, int]:
    """First head of a pattern, by layer."""
    return {
        layer: group.first_head
        for layer, groups in enumerate(allocation.layers)
        for group in groups
        if group.name == name
    }


def _target_map(allocation: Allocation, name: str, sentence: SentenceAttention) -> np.ndarray:
    pattern = next(g.pattern for groups in allocation.layers for g in groups if g.name == name)
    return pattern_map(pattern, sentence.token_ids)


def _draw_map(axes: Axes, matrix: np.ndarray | None, tokens: list[str] | None, title: str) -> None:
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    if matrix is None:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes, color="0.4")
        for side in axes.spines.values():
            side.set_visible(False)
        return
    axes.imshow(matrix, vmin=0, vmax=1, cmap=_MAP_COLORS, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    if tokens is not None:
        # "$" would start a formula.
        labels = [token.replace("$", r"\$") for token in tokens]
        axes.set_yticks(range(len(labels)), labels, fontsize=4.5)


def _save(path: Path, draw: Callable[[Axes], None]) -> None:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4))
        draw(figure.subplots())
        figure.savefig(path)


def _column(lines: Lines, name: str) -> np.ndarray:
    return np.array([line[name] for line in lines], dtype=float)


def _edges(centers: np.ndarray) -> np.ndarray:
    """Borders of cells around equally or unequally spaced centers."""
    if len(centers) == 1:
        return np.array([centers[0] - 0.5, centers[0] + 0.5])
    middles = (centers[1:] + centers[:-1]) / 2
    return np.concatenate([[2 * centers[0] - middles[0]], middles, [2 * centers[-1] - middles[-1]]])
