"""Which heads of which layers get which pattern: from a recipe's `guidance.heads` to heads by layer.

`heads` is a preset, counts for every guided layer, or counts by range of layers:

    heads: paper
    heads: {next: 1, previous: 1, first: 4}
    heads: {0-3: {previous: 2, next: 2}, 4-11: {delimiters: 3}}

In each layer heads are given out from head 0 up, in the order written.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from pipeline.guidance.patterns import Pattern, parse_pattern
from pipeline.guidance.targets import in_canonical_order

HeadCounts = dict[str, int]
HeadTable = dict[str, HeadCounts]

# The authors' released settings (spec of their code: self, next, previous, first = 0,1,1,4 and 0,2,2,2).
_EVERYWHERE: dict[str, HeadCounts] = {
    "paper": {"next": 1, "previous": 1, "first": 4},
    "grid": {"next": 2, "previous": 2, "first": 2},
}
# What Clark et al. (2019) found trained BERT heads to look at: neighbours and the first token in the lower
# layers, separators in the middle, punctuation in the upper ones. One entry per third of the layers.
_BY_THIRDS: dict[str, tuple[HeadCounts, HeadCounts, HeadCounts]] = {
    "clark": (
        {"next": 2, "previous": 2, "first": 2},
        {"next": 1, "previous": 1, "delimiters": 4},
        {"delimiters": 2, "sentence_ends": 4},
    ),
}
# In a deep encoder the patterns form sooner, and serve the objective sooner, if its upper layers stay free.
DEFAULT_GUIDED_LAYERS = 6
PRESETS = (*_EVERYWHERE, *_BY_THIRDS)
_RANGE = re.compile(r"(\d+)-(\d*)")


@dataclass(frozen=True)
class PatternHeads:
    """A pattern and the heads [first_head, end_head) of one layer it is given to."""

    name: str
    pattern: Pattern
    first_head: int
    end_head: int


@dataclass(frozen=True)
class Allocation:
    """The guided heads of every layer of a model, an empty tuple for a layer that is not guided."""

    layers: tuple[tuple[PatternHeads, ...], ...]

    @cached_property
    def patterns(self) -> list[Pattern]:
        """The distinct patterns, in canonical order."""
        return in_canonical_order([group.pattern for groups in self.layers for group in groups])

    @cached_property
    def names(self) -> list[str]:
        """The distinct pattern names, in order of first use."""
        return list(dict.fromkeys(group.name for groups in self.layers for group in groups))

    @cached_property
    def num_heads(self) -> int:
        """Guided heads of the layer that has most."""
        return max((groups[-1].end_head for groups in self.layers if groups), default=0)

    @cached_property
    def guided_layers(self) -> tuple[int, ...]:
        """Layers with a guided head, ascending."""
        return tuple(layer for layer, groups in enumerate(self.layers) if groups)

    @property
    def num_layer_types(self) -> int:
        """Pattern types summed over the layers: layers x types where all layers have the same."""
        return sum(len(groups) for groups in self.layers)

    @property
    def head_counts(self) -> list[int]:
        """The distinct numbers of heads that a pattern has in a layer, ascending."""
        return sorted({group.end_head - group.first_head for groups in self.layers for group in groups})

    def describe(self) -> list[list[tuple[str, int, int]]]:
        """Pattern name, first and end head of every group, by layer, as plain values."""
        return [[(g.name, g.first_head, g.end_head) for g in groups] for groups in self.layers]

    def pattern_of_head(self, layer: int) -> list[int]:
        """For each guided head of a layer, the place of its pattern in `patterns`."""
        return [
            self.patterns.index(group.pattern)
            for group in self.layers[layer]
            for _ in range(group.end_head - group.first_head)
        ]


def expand_preset(name: str, num_layers: int) -> HeadTable:
    """The head counts by range of layers that a preset stands for; KeyError for another name."""
    if name in _EVERYWHERE:
        return {f"0-{num_layers - 1}": _EVERYWHERE[name]}
    # Of one or two layers, some thirds are empty.
    borders = [round(num_layers * share / 3) for share in range(4)]
    return {
        f"{first}-{end - 1}": counts
        for first, end, counts in zip(borders, borders[1:], _BY_THIRDS[name])
        if end > first
    }


def head_table(
    heads: str | HeadCounts | HeadTable, layers: Sequence[int] | None, num_layers: int
) -> list[HeadCounts]:
    """Head counts of every layer; empty for those not guided.

    Args:
        heads: as in a recipe.
        layers: the guided ones, where `heads` does not say; None for all.
        num_layers: of the model.

    Raises:
        ValueError: a range that is none, lies beyond the last layer or meets another; an unknown preset.
    """
    table: list[HeadCounts] = [{} for _ in range(num_layers)]
    for text, counts in _as_table(heads, num_layers).items():
        for layer in _layers_of_range(text, num_layers):
            if table[layer]:
                raise ValueError(f"layer {layer} is in {text!r} and in an earlier range; name it once")
            table[layer] = counts
    return [counts if layers is None or layer in layers else {} for layer, counts in enumerate(table)]


def is_table(heads: str | HeadCounts | HeadTable) -> bool:
    """Whether a recipe's `heads` are written by range of layers."""
    return isinstance(heads, dict) and any(isinstance(value, dict) for value in heads.values())


def says_layers(heads: str | HeadCounts | HeadTable) -> bool:
    """Whether `heads` says itself which layers are guided."""
    return heads in _BY_THIRDS if isinstance(heads, str) else is_table(heads)


def pattern_names(heads: str | HeadCounts | HeadTable) -> list[str]:
    """Names of all patterns that a recipe's `heads` gives heads to; of an unknown preset, none."""
    if isinstance(heads, str):
        counts = [_EVERYWHERE[heads]] if heads in _EVERYWHERE else list(_BY_THIRDS.get(heads, ()))
    else:
        counts = list(cast(HeadTable, heads).values()) if is_table(heads) else [cast(HeadCounts, heads)]
    return list(dict.fromkeys(name for table in counts for name in table))


def allocate(table: Sequence[HeadCounts], token_ids: Mapping[str, Sequence[int]] | None = None) -> Allocation:
    """Give each pattern its heads.

    Args:
        table: head counts of every layer.
        token_ids: see `parse_pattern`.

    Raises:
        ValueError: unknown pattern name.
    """
    layers = []
    for counts in table:
        groups, head = [], 0
        for name, count in counts.items():
            groups.append(PatternHeads(name, parse_pattern(name, token_ids), head, head + count))
            head += count
        layers.append(tuple(groups))
    return Allocation(tuple(layers))


def _as_table(heads: str | HeadCounts | HeadTable, num_layers: int) -> HeadTable:
    if isinstance(heads, str):
        if heads not in PRESETS:
            raise ValueError(f"unknown preset {heads!r}; the presets are {', '.join(PRESETS)}")
        return expand_preset(heads, num_layers)
    if is_table(heads):
        return cast(HeadTable, heads)
    return {f"0-{num_layers - 1}": cast(HeadCounts, heads)}


def _layers_of_range(text: str, num_layers: int) -> range:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is no range of layers; write it as 0-{num_layers - 1} (both included), or 2- for all "
            "from layer 2 up"
        )
    first, last = int(match[1]), int(match[2] or num_layers - 1)
    if last >= num_layers or first > last:
        raise ValueError(f"{text!r} is no range of the layers 0-{num_layers - 1}")
    return range(first, last + 1)
