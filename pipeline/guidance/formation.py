"""When the patterns have formed: the measured end of the dense phase.

While guidance is dense every guided layer is looked at in every step, so attention mass on target is there
for the taking. Every few steps the run looks at the mass of the step just made, summed over all processes;
once nine in ten guided heads, over all layers, have enough of it on target, the patterns count as formed for
good. The step at which that was seen is the only state.
"""

import torch

from pipeline.guidance.guide import GuidanceTerms
from pipeline.guidance.schedule import GuidanceSchedule
from pipeline.processes.cluster import Cluster

_EVERY_STEPS = 10  # a look waits for the device once
_QUORUM = 0.9  # of the guided heads: a single one that never forms must not keep all others dense


class Formation:
    """Watches the guided layers until their patterns have formed."""

    def __init__(self, schedule: GuidanceSchedule, formed_mass: float) -> None:
        """`formed_mass` is the share of attention on target that a formed head has."""
        self.schedule = schedule
        self.formed_mass = formed_mass
        self.formed_step: int | None = None
        self._sums: torch.Tensor | None = None

    def is_due(self, step: int) -> bool:
        """Whether this step's mass is to be looked at: the same answer on every process."""
        return (
            self.schedule.dense_steps is None
            and self.formed_step is None
            and (step + 1) % _EVERY_STEPS == 0
            and self.schedule.is_dense(step, None)
            and bool(self.schedule.at(step).layers)
        )

    def add(self, terms: GuidanceTerms) -> None:
        """Take the terms of a micro-batch of a step that is due."""
        sums = torch.stack([terms.mass, terms.rows]).double()
        self._sums = sums if self._sums is None else self._sums + sums

    def judge(self, step: int, cluster: Cluster) -> float | None:
        """After a step that was due, on every process.

        Returns:
            The mean mass of the guided heads if the patterns have now formed, otherwise None.
        """
        assert self._sums is not None
        mass = head_means(*cluster.sum(self._sums).cpu())
        self._sums = None
        if not have_formed(mass, self.formed_mass):
            return None
        self.formed_step = step + 1
        return mass.mean().item()


def have_formed(mass: torch.Tensor, formed_mass: float) -> bool:
    """Whether enough of what is listed in `mass`, flat, has at least `formed_mass`; not if nothing is."""
    return len(mass) > 0 and bool((mass >= formed_mass).double().mean() >= _QUORUM)


def head_means(mass: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Mean mass per row of every head that had rows, flat; `mass` and `rows` are sums, (layers, heads)."""
    seen = rows > 0
    return mass[seen] / rows[seen]
