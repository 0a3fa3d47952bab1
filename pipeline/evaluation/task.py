"""What an evaluation task is: a file in tasks/ that makes one of these, and a line in its table.

A task is begun on an encoder and becomes an Evaluation, which names its *units*: parts that are measured one
after another and kept as they are finished, such as a paradigm, or a data set fine-tuned on with one seed.
What a unit measures may depend on the encoder, the settings and the unit's name, on nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import UsageError
from pipeline.evaluation.encoder import Encoder

Measured = dict[str, Any]  # of a unit, as JSON has it


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line asks for; a task takes some of these, the others are None.

    Attributes:
        data: file or directory of the task's data.
        only: units by the beginning of their names; None for all.
        limit: examples used of each split, from its beginning; None for all.
        seeds: fine-tunings, with seeds 0, 1, ...
        epochs: passes over the training examples.
        learning_rate: peak, in fine-tuning.
        batch_size: examples per step or forward pass.
        max_length: tokens per example; longer ones are cut.
    """

    data: Path | None = None
    only: list[str] | None = None
    limit: int | None = None
    seeds: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    max_length: int | None = None

    def given(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Summary:
    """What an evaluation comes to.

    Attributes:
        numbers: name -> figure, for those who compare encoders; the most important first.
        header: of the table for a person.
        rows: of it; numbers are shown with four significant digits.
        notes: sentences that belong below it, warnings too.
        draw: writes a figure to a PNG file.
    """

    numbers: dict[str, float]
    header: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    notes: Sequence[str] = ()
    draw: Callable[[Path], None] | None = field(default=None, compare=False)


class Evaluation(Protocol):
    """A task begun on an encoder."""

    @property
    def units(self) -> Sequence[str]:
        """Names of all units, in the order they are measured."""
        ...

    def measure(self, unit: str) -> Measured:
        """Measure a unit; deterministic."""
        ...

    def summarize(self, measured: Mapping[str, Measured]) -> Summary:
        """From the results of all units."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something that can be evaluated.

    Attributes:
        data: what --data has to name; None for a task without data of its own.
        begin: opens data and encoder. Raises DataError or UsageError.
        defaults: of the settings the task takes beside `data`; it takes no others.
        optional: settings it also takes and that have no default.
        sources: the files that are read with these settings, by names of the parts of the data, such as its
            data sets. Results are used again only where the parts hold the same; a unit may depend on
            files of a part only if every evaluation of that unit reads it. Raises DataError or UsageError.
    """

    data: str | None
    begin: Callable[[Encoder, Settings], Evaluation]
    sources: Callable[[Settings], Mapping[str, Sequence[Path]]] = field(default=lambda settings: {})
    defaults: Mapping[str, Any] = field(default_factory=dict)
    optional: Sequence[str] = ()

    def takes(self) -> list[str]:
        """Names of the settings it takes."""
        return [*(["data"] if self.data else []), *self.defaults, *self.optional]


def chosen_units(units: Sequence[str], only: Sequence[str] | None) -> list[str]:
    """The units that begin with one of `only`, or all; a UsageError for one with which none begins."""
    if only is None:
        return list(units)
    if useless := [name for name in only if not any(unit.startswith(name) for unit in units)]:
        raise UsageError(f"--only {useless[0]}: no part begins so; the parts are {', '.join(units)}")
    return [unit for unit in units if unit.startswith(tuple(only))]
