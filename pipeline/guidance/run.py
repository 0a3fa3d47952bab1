"""Guidance of a run: what its steps look at, their targets and loss, and whether the patterns have formed."""

import torch

from pipeline.data.batches import MicroBatch
from pipeline.guidance.formation import Formation
from pipeline.guidance.guide import AttentionGuide, GuidanceTerms
from pipeline.guidance.loss import GuidanceLoss
from pipeline.guidance.schedule import GuidanceSchedule, GuidedStep
from pipeline.guidance.targets import Targets
from pipeline.processes.cluster import Cluster


class RunGuidance:
    """The parts of guidance, put together for a training loop.

    The only state is `formation.formed_step`; everything else is a function of the step.
    """

    def __init__(
        self, guide: AttentionGuide, schedule: GuidanceSchedule, loss: GuidanceLoss, formation: Formation
    ) -> None:
        """Of a model whose attention is tapped by `guide`."""
        self.guide, self.schedule, self.loss, self.formation = guide, schedule, loss, formation

    def at(self, step: int) -> GuidedStep:
        """What a step does."""
        return self.schedule.at(step, self.formation.formed_step)

    def targets(self, batch: MicroBatch, guided: GuidedStep) -> Targets | None:
        """Targets of a micro-batch in host memory; None for a step that needs none."""
        if not guided.layers and not guided.bias:
            return None
        return self.guide.targets(batch.original_ids(), batch.documents)

    def count_valid(self, targets: list[Targets | None]) -> torch.Tensor:
        """Rows with a target in all of a step's micro-batches, per pattern, (patterns,), float64."""
        counts = torch.zeros(len(self.guide.allocation.patterns), dtype=torch.float64)
        for target in targets:
            if target is not None:
                counts += target.count_valid()
        return counts

    def measure(self, step: int, terms: GuidanceTerms) -> None:
        """Take the terms of a micro-batch, in steps in which the formation of the patterns is looked at."""
        if self.formation.is_due(step):
            self.formation.add(terms)

    def judge(self, step: int, cluster: Cluster) -> float | None:
        """After a step, on every process: mean attention on target if the patterns have just formed."""
        return self.formation.judge(step, cluster) if self.formation.is_due(step) else None
