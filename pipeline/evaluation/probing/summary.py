"""What the figures of all heads come to: numbers, a table by layer and heat maps."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pipeline.evaluation.task import Measured, Summary

PATTERNS, REFLEXIVES = "patterns", "reflexives"  # the task's units
HEAD_OF_PATTERN_MASS = 0.5  # a head with so much of its attention on a pattern counts as one of it
_ENTROPY = "entropy / log n"
_PANELS_PER_ROW = 3

HeadMap = npt.NDArray[np.float64]  # a value from 0 to 1 for every head, (layers, heads)


def summarize_heads(measured: Mapping[str, Measured]) -> Summary:
    """Of one or both units; see Probe for what they hold."""
    numbers: dict[str, float] = {}
    maps: dict[str, HeadMap] = {}
    notes = []
    if PATTERNS in measured:
        found = measured[PATTERNS]
        maps |= _pattern_maps(found)
        notes.append(
            f"patterns: highest mean attention of a head of the layer, on {found['num_rows']:,} "
            f"{found['text']}; entropy: mean over its heads; heads: how many have at least half of their "
            "attention on the pattern"
        )
    if REFLEXIVES in measured:
        found = measured[REFLEXIVES]
        maps[REFLEXIVES] = score = np.array(found["score"])
        numbers |= _reflexive_numbers(found, score)
        notes.append(_reflexive_note(found, score))
    if PATTERNS in measured:
        numbers |= _pattern_numbers(measured[PATTERNS])
    header, rows = _table(maps)
    return Summary(numbers, header, rows, notes, partial(draw_heads, maps))


def num_heads_of(mass: HeadMap) -> int:
    """How many heads count as one of a pattern, from their attention on it."""
    return int((mass >= HEAD_OF_PATTERN_MASS).sum())


def draw_heads(maps: Mapping[str, HeadMap], path: Path) -> None:
    """A heat map per title, layers by heads, to a PNG file."""
    num_rows = -(-len(maps) // _PANELS_PER_ROW)
    figure = Figure(figsize=(2.7 * _PANELS_PER_ROW + 0.9, 2.4 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, _PANELS_PER_ROW, squeeze=False)
    for axes, (title, values) in zip(panels.flat, maps.items()):
        image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="head", ylabel="layer")
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
    for axes in panels.flat[len(maps) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=panels.ravel().tolist(), shrink=0.6)
    figure.savefig(path, dpi=140)


def _pattern_maps(found: Measured) -> dict[str, HeadMap]:
    """Patterns that have a target somewhere, and entropy."""
    maps = {name: np.array(mass) for name, mass in found["mass"].items() if mass is not None}
    return {**maps, _ENTROPY: np.array(found["relative_entropy"])}


def _pattern_numbers(found: Measured) -> dict[str, float]:
    return {
        "entropy/mean": float(np.mean(found["entropy"])),
        "entropy/relative": float(np.mean(found["relative_entropy"])),
        **{
            f"heads/{name}": num_heads_of(values)
            for name, values in _pattern_maps(found).items()
            if name != _ENTROPY
        },
    }


def _reflexive_numbers(found: Measured, score: HeadMap) -> dict[str, float]:
    return {
        "reflexives/max": float(score.max()),
        "reflexives/mean": float(score.mean()),
        "reflexives/best_offset": found["best_offset_score"],
        "reflexives/nearest_noun": found["nearest_noun_score"],
    }


def _reflexive_note(found: Measured, score: HeadMap) -> str:
    layer, head = np.unravel_index(score.argmax(), score.shape)
    return (
        f"reflexives: head {head} of layer {layer} looks at {score.max():.1%} of the antecedents, the mean "
        f"head at {score.mean():.1%}; always {-found['best_offset']} tokens back would be "
        f"{found['best_offset_score']:.1%}, always the nearest noun {found['nearest_noun_score']:.1%} "
        f"({found['num_usable']:,} of {found['num_sentences']:,} sentences usable)"
    )


def _table(maps: Mapping[str, HeadMap]) -> tuple[list[str], list[list[str | float | None]]]:
    """A row per layer with its best head's value, for entropy the mean; and the heads of each pattern."""
    num_layers = len(next(iter(maps.values())))
    rows: list[list[str | float | None]] = []
    for layer in range(num_layers):
        values = [
            float(heads[layer].mean() if title == _ENTROPY else heads[layer].max())
            for title, heads in maps.items()
        ]
        rows.append([str(layer), *values])
    counts = [
        None if title in (_ENTROPY, REFLEXIVES) else num_heads_of(heads) for title, heads in maps.items()
    ]
    if any(count is not None for count in counts):
        rows.append(["heads", *counts])
    return ["layer", *maps], rows
