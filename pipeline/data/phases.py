"""The phases of a run, and which rows of which corpus their steps train: pure functions of the step.

A corpus has one endless order of rows, epoch after epoch (see order.py). A phase begins in it where the last
phase with the same corpus stopped, or at its start: another batch size goes on where the order was, and a
corpus that comes back goes on, too. Steps count from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps that are trained alike.

    Attributes:
        first_step: its first.
        end_step: the one after its last.
        corpus: directory of its rows, the same for all phases that share an order.
        global_batch_size: rows per step, over all processes.
        micro_batch_limit: most rows per process and forward pass.
    """

    first_step: int
    end_step: int
    corpus: str
    global_batch_size: int
    micro_batch_limit: int

    def micro_batch_size(self, world_size: int) -> int:
        """Rows per forward pass on each of so many processes, which must divide the global batch.

        The largest number up to the limit that divides a process's share of the global batch.
        """
        share = self.global_batch_size // world_size
        limit = min(self.micro_batch_limit, share)
        return next(size for size in range(limit, 0, -1) if share % size == 0)


def phase_at(phases: Sequence[Phase], step: int) -> int:
    """Number of the phase that a step is in; the last has no end."""
    return sum(step >= phase.end_step for phase in phases[:-1])


def rows_taken(phases: Sequence[Phase], corpus: str, step: int) -> int:
    """Rows of a corpus that the steps before `step` train, each counted as often as it is trained."""
    return sum(
        max(0, min(step, phase.end_step) - phase.first_step) * phase.global_batch_size
        for phase in phases
        if phase.corpus == corpus
    )


def place_of_step_zero(phases: Sequence[Phase], index: int) -> int:
    """Place in the order of its corpus at which step 0 would begin, were all steps those of phase `index`.

    A step s of the phase begins at this place + s * global_batch_size. It may be negative.
    """
    phase = phases[index]
    return rows_taken(phases, phase.corpus, phase.first_step) - phase.first_step * phase.global_batch_size
