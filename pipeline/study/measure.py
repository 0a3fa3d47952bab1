"""What a study's runs are compared by: a figure, its unit, which direction is better, where it is taken."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Better = Literal["lower", "higher"]
At = Literal["end", "steps", "time"]
_AT = {"end": "", "steps": " at equal steps", "time": " at equal training time"}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure that every finished run has, and that its baseline's is taken from.

    Attributes:
        figure: a field of the "valid" lines of metrics.jsonl, or one of a task's numbers.
        unit: of the figure, in words.
        better: which direction is.
        at: where a run is taken: at its own end, when it has taken as many steps as its baseline in all, or
            when it has trained for as long. The baseline is always taken at its end.
        task: of `evaluate`, run on the final weights; None for a field of the held-out evaluations.
        settings: of the task, by the names that Settings has for them.
    """

    figure: str = "loss"
    unit: str = "nats per predicted token"
    better: Better = "lower"
    at: At = "end"
    task: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_loss(self) -> bool:
        """Whether it is the held-out loss, which the unigram loss can be put beside."""
        return self.task is None and self.figure == "loss"

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.task or 'held-out'} {self.figure}"

    @property
    def label(self) -> str:
        """Of an axis of a figure."""
        return f"{self.name}\n({self.unit})"

    @property
    def where(self) -> str:
        """As part of a sentence, such as " at equal training time"; nothing for the end."""
        return _AT[self.at]

    @property
    def sign(self) -> float:
        """Factor that makes lower values the better ones."""
        return 1.0 if self.better == "lower" else -1.0


HELD_OUT_LOSS = Measure()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names, and all of them if there is none near."""
    names = list(known)
    if near := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean {near[0]!r}?"
    return f"there is {', '.join(names)}" if names else "there is none"
