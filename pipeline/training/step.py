"""One optimizer step: forward and backward for each micro-batch, then the update."""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.config.schema import Recipe
from pipeline.data.batches import MicroBatch
from pipeline.engine import forward
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.targets import Targets
from pipeline.metrics import WindowSums
from pipeline.processes.cluster import Cluster
from pipeline.training.learning_rate import learning_rate_at


@dataclass(frozen=True)
class StepTotals:
    """What all processes together put into a step.

    Attributes:
        predicted: tokens predicted, the denominator of the objective.
        valid_rows: rows with a target, per guidance pattern, (patterns,), in host memory.
        flags: how many processes raised each flag, in the order given to `StepRunner.run`.
    """

    predicted: float
    valid_rows: torch.Tensor
    flags: list[int]


class StepRunner:
    """Takes optimizer steps with an engine."""

    def __init__(
        self, recipe: Recipe, cluster: Cluster, engine: Any, guidance: RunGuidance, window: WindowSums
    ) -> None:
        """`window` gets the step's sums."""
        self.recipe, self.cluster, self.engine = recipe, cluster, engine
        self.guidance, self.window = guidance, window

    def run(self, step: int, micro_batches: list[MicroBatch], flags: list[bool]) -> StepTotals:
        """Take step number `step`, counted from 0.

        Args:
            step: number of steps taken before.
            micro_batches: this process's rows, in host memory.
            flags: what this process has to say to all (a wish to stop, a finished save); they travel with
                the counts that the step needs anyway.
        """
        guided = self.guidance.at(step)
        targets = [self.guidance.targets(batch, guided) for batch in micro_batches]
        predicted = sum(batch.num_predictions for batch in micro_batches)
        totals = self._agree(predicted, targets, flags)
        learning_rate = learning_rate_at(self.recipe, step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        device = self.cluster.device
        # DeepSpeed averages over micro-steps and processes; ours are shares of sums over the global batch.
        shares = len(micro_batches) * self.cluster.world_size
        for batch, target in zip(micro_batches, targets):
            on_device = None if target is None else target.to(device)
            loss, correct, terms = forward(self.engine, batch.to(device), guided, on_device)
            self.window.add(loss=loss, correct=correct)
            objective = loss / totals.predicted
            if guided.layers:
                guidance = self.guidance.loss(guided, terms.errors, totals.valid_rows)
                self.guidance.measure(step, terms)
                objective = objective + guidance
                self.window.add_guidance(guided, terms)
                self.window.add(guidance_loss=guidance)
            self.engine.backward(objective * shares)
            self.engine.step()
        self.window.add(
            predicted=predicted,
            tokens=sum(int(batch.lengths.sum()) for batch in micro_batches),
            # Counted once, on one process, so that the sums of a window do not depend on their number.
            steps=int(self.cluster.is_main),
        )
        return totals

    def _agree(self, predicted: int, targets: list[Targets | None], flags: list[bool]) -> StepTotals:
        """Sum the step's counts and flags over all processes, in host memory."""
        counts = torch.tensor([float(predicted), *map(float, flags)], dtype=torch.float64)
        summed = self.cluster.sum(torch.cat([counts, self.guidance.count_valid(targets)]))
        return StepTotals(
            predicted=summed[0].item(),
            valid_rows=summed[1 + len(flags) :],
            flags=[round(count) for count in summed[1 : 1 + len(flags)].tolist()],
        )
