"""Steps whose loss or gradient is no number: which rows are to blame, and when to go back."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.training.row_losses import StepLosses

_ROWS_NAMED = 10


@dataclass(frozen=True)
class Fault:
    """A step that was skipped.

    Attributes:
        step: as the logs count, from 1.
        rows: rows of the training split, of the step's corpus, whose own loss is not finite; where only the
            gradient is not, those with the highest losses.
        reason: what was not finite.
    """

    step: int
    rows: list[int]
    reason: Literal["loss", "gradient"]

    def __str__(self) -> str:
        if self.reason == "loss":
            return f"step {self.step} skipped: the loss is not finite in row(s) {name_rows(self.rows)}"
        return (
            f"step {self.step} skipped: the gradient is not finite although every row's loss is; "
            f"the highest losses are those of row(s) {name_rows(self.rows)}"
        )


def find_fault(losses: StepLosses, is_loss_scaled: bool) -> Fault | None:
    """Why a step had no update.

    None where the loss is finite and is scaled, as with fp16: the gradient is not finite then whenever the
    search for the largest scale that works has gone too far, which is no fault.
    """
    if rows := losses.not_finite():
        return Fault(losses.step, rows, "loss")
    return None if is_loss_scaled else Fault(losses.step, losses.highest(_ROWS_NAMED)[0], "gradient")


@dataclass
class BadSeries:
    """Bad steps that follow one another.

    Attributes:
        limit: so many are too many.
        faults: those of the series, oldest first; empty after a good step.
    """

    limit: int
    faults: list[Fault] = field(default_factory=list)

    def note(self, fault: Fault | None) -> None:
        """Take the outcome of a step that was tried."""
        self.faults = [] if fault is None else [*self.faults, fault]

    @property
    def is_open(self) -> bool:
        """Whether the last step was bad."""
        return bool(self.faults)

    @property
    def is_full(self) -> bool:
        """Whether it is time to go back."""
        return len(self.faults) >= self.limit

    @property
    def steps(self) -> list[int]:
        """Its steps, as the logs count."""
        return [fault.step for fault in self.faults]


def name_rows(rows: list[int]) -> str:
    """The first ten, and how many more there are."""
    more = f" and {len(rows) - _ROWS_NAMED} more" if len(rows) > _ROWS_NAMED else ""
    return ", ".join(map(str, rows[:_ROWS_NAMED])) + more
