"""The grid of a study: axes of settings, their cells, and which cell each one is compared with.

A *cell* is one choice on every axis. The first choice on the first axis is the baseline: every other cell is
compared with the one that differs from it on the first axis only.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Axis:
    """Choices that exclude each other.

    Attributes:
        name: a recipe key, or "arm".
        labels: what the choices are called, in tables and directories.
        settings: recipe keys with their values, for each choice.
    """

    name: str
    labels: tuple[str, ...]
    settings: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Cell:
    """A choice on every axis.

    Attributes:
        labels: of the choices, one per axis.
        settings: recipe keys with their values.
        name: of its directory.
    """

    labels: tuple[str, ...]
    settings: dict[str, Any]
    name: str


@dataclass(frozen=True)
class Grid:
    """All cells, each of which is run with every seed."""

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]

    def cells(self) -> list[Cell]:
        """Every choice on every axis; the last axis changes fastest."""
        choices = itertools.product(*(range(len(axis.labels)) for axis in self.axes))
        return [self._cell(choice) for choice in choices]

    def baseline_of(self, cell: Cell) -> Cell:
        """The cell with the same choices on all axes but the first, where it has the first choice."""
        choice = [axis.labels.index(label) for axis, label in zip(self.axes, cell.labels)]
        return self._cell((0, *choice[1:]))

    def _cell(self, choice: Sequence[int]) -> Cell:
        labels = tuple(axis.labels[index] for axis, index in zip(self.axes, choice))
        settings = {
            key: value
            for axis, index in zip(self.axes, choice)
            for key, value in axis.settings[index].items()
        }
        return Cell(labels, settings, ",".join(labels))
