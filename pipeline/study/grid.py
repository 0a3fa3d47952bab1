"""The grid of a study: axes of settings, their cells, and which cell each one is compared with.

An *axis* is a recipe key with several values (`--vary`), or several named sets of values (`--arm`). A *cell*
is one choice on every axis. The first choice on the first axis is the baseline: every other cell is compared
with the one that differs from it on the first axis only.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.config.load import parse_value
from pipeline.errors import UsageError

ARMS = "arm"  # name of the axis that --arm makes
_NOT_IN_NAMES = re.compile(r"[^\w.=,+-]+")


@dataclass(frozen=True)
class Axis:
    """Choices that exclude each other.

    Attributes:
        name: a recipe key, or ARMS.
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
        return [
            self._cell(choice)
            for choice in itertools.product(*(range(len(axis.labels)) for axis in self.axes))
        ]

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
        parts = [
            label if axis.name == ARMS else f"{axis.name.rpartition('.')[2]}={label}"
            for axis, label in zip(self.axes, labels)
        ]
        return Cell(labels, settings, _NOT_IN_NAMES.sub("-", ",".join(parts)).strip("-"))


def make_grid(
    arms: Sequence[Sequence[str]], variations: Sequence[str], first_seed: int, num_seeds: int
) -> Grid:
    """The grid a command line asks for; a UsageError says what is wrong with it.

    Args:
        arms: of each --arm its name and its KEY=VALUE.
        variations: of each --vary its KEY=VALUE,VALUE.
        first_seed: the recipe's seed; the others follow it.
        num_seeds: runs of every cell.
    """
    axes = [_arm_axis(arms)] if arms else []
    axes += [_vary_axis(variation) for variation in variations]
    if not axes:
        raise UsageError("nothing is compared; write --vary KEY=VALUE,VALUE or several --arm NAME KEY=VALUE")
    keys = [key for axis in axes for key in {key for settings in axis.settings for key in settings}]
    if repeated := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise UsageError(f"{repeated[0]} is on two axes; vary it on one")
    if "seed" in keys:
        raise UsageError("seed cannot be varied; write --seeds N")
    grid = Grid(tuple(axes), tuple(range(first_seed, first_seed + num_seeds)))
    names = [cell.name for cell in grid.cells()]
    if nameless := [cell for cell in grid.cells() if not any(letter.isalnum() for letter in cell.name)]:
        raise UsageError(f"--arm {nameless[0].labels[0]!r} names no directory; use letters or digits")
    if same := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two cells would share the directory {same[0]!r}; give values or arms that differ")
    return grid


def _vary_axis(text: str) -> Axis:
    key, separator, listed = text.partition("=")
    values = _parse(f"--vary {text}", f"[{listed}]") if separator and key else None
    if not isinstance(values, list) or len(values) < 2:
        raise UsageError(f"--vary {text}: write KEY=VALUE,VALUE, for example guidance.weight=0,0.1")
    labels = tuple(_label(value) for value in values)
    if len(set(labels)) < len(labels):
        raise UsageError(f"--vary {text}: a value is there twice; write each once")
    return Axis(key, labels, tuple({key: value} for value in values))


def _arm_axis(arms: Sequence[Sequence[str]]) -> Axis:
    names = tuple(name for name, *_ in arms)
    if len(names) < 2:
        raise UsageError(f"--arm {names[0]}: there is nothing to compare it with; write a second --arm")
    if len(set(names)) < len(names):
        raise UsageError(f"--arm {max(names, key=names.count)}: the name is there twice; write each once")
    settings = []
    for name, *assignments in arms:
        values: dict[str, Any] = {}
        for text in assignments:
            key, separator, value = text.partition("=")
            if not separator or not key:
                raise UsageError(f"--arm {name} {text}: write KEY=VALUE, for example guidance.weight=0")
            values[key] = _parse(f"--arm {name} {text}", value)
        settings.append(values)
    return Axis(ARMS, names, tuple(settings))


def _parse(option: str, text: str) -> Any:
    try:
        return parse_value(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{option}: cannot be read as YAML; quote what has brackets or colons") from error


def _label(value: Any) -> str:
    """A value as a table shows it: {"next": 1} as next 1."""
    if isinstance(value, dict):
        return " ".join(f"{key} {_label(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(_label(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
