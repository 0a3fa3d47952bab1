"""One optimizer step: forward and backward for each micro-batch, then the update."""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.accounting.clock import span
from pipeline.accounting.flops import ModelFlops
from pipeline.accounting.metrics import WindowSums
from pipeline.config.schema import Recipe
from pipeline.data.batches import MicroBatch
from pipeline.data.digest import add_digests
from pipeline.engine import can_scale_loss_less, forward
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.targets import Targets
from pipeline.guidance.timer import SPAN as GUIDANCE_SPAN
from pipeline.processes.cluster import Cluster
from pipeline.training.faults import Fault, find_fault
from pipeline.training.learning_rate import learning_rate_at
from pipeline.training.row_losses import RowLosses

FORWARD_SPAN, BACKWARD_SPAN, OPTIMIZER_SPAN = "forward", "backward", "optimizer"


@dataclass(frozen=True)
class StepTotals:
    """What all processes together put into a step.

    Attributes:
        predicted: tokens predicted, the denominator of the objective.
        digest: of all rows, see data/digest.py.
        valid_rows: rows with a target, per guidance pattern, (patterns,), in host memory.
        flags: how many processes raised each flag, in the order given to `StepRunner.run`.
    """

    predicted: float
    digest: int
    valid_rows: torch.Tensor
    flags: list[int]


@dataclass(frozen=True)
class StepOutcome:
    """What came of a step, the same on all processes.

    Attributes:
        flags: how many processes raised each flag, in the order given to `StepRunner.run`.
        fault: why there was no update; None if there was one.
    """

    flags: list[int]
    fault: Fault | None


class StepRunner:
    """Takes optimizer steps with an engine."""

    def __init__(
        self,
        recipe: Recipe,
        cluster: Cluster,
        engine: Any,
        guidance: RunGuidance,
        window: WindowSums,
        row_losses: RowLosses,
    ) -> None:
        """`window` and `row_losses` get the sums and rows of steps without a fault."""
        self.recipe, self.cluster, self.engine = recipe, cluster, engine
        self.guidance, self.window, self.row_losses = guidance, window, row_losses
        self._sums = WindowSums(window.allocation, cluster.device)
        self._flops = ModelFlops.of(engine.module.model.config)

    def run(self, step: int, micro_batches: list[MicroBatch], flags: list[bool]) -> StepOutcome:
        """Take step number `step`, counted from 0.

        A loss or gradient that is not finite, on whatever process, leaves weights and optimizer as they are
        on all of them.

        Args:
            step: number of steps taken before.
            micro_batches: this process's rows, in host memory.
            flags: what this process has to say to all (a wish to stop, a finished save); they travel with
                the counts that the step needs anyway.
        """
        guided = self.guidance.at(step)
        with span(GUIDANCE_SPAN):
            targets = [self.guidance.targets(batch, guided) for batch in micro_batches]
        predicted = sum(batch.num_predictions for batch in micro_batches)
        digest = add_digests(*(batch.digest for batch in micro_batches))
        totals = self._agree(predicted, digest, targets, flags)
        learning_rate = learning_rate_at(self.recipe, step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        device = self.cluster.device
        # DeepSpeed averages over micro-steps and processes; ours are shares of sums over the global batch.
        shares = len(micro_batches) * self.cluster.world_size
        self._sums.clear()
        table = self.row_losses.new_table(step)
        for micro_step, (batch, target) in enumerate(zip(micro_batches, targets)):
            on_device = batch.to(device)
            with span(FORWARD_SPAN):
                total, losses, correct, terms = forward(
                    self.engine, on_device, guided, None if target is None else target.to(device)
                )
            self.row_losses.enter(table, step, micro_step, losses, on_device.labels)
            self._sums.add(loss=losses.double().sum(), correct=correct)
            objective = total / totals.predicted
            if guided.layers:
                with span(GUIDANCE_SPAN):
                    guidance = self.guidance.loss(guided, terms.errors, totals.valid_rows)
                    self.guidance.measure(step, terms)
                objective = objective + guidance
                self._sums.add_guidance(guided, terms)
                self._sums.add(guidance_loss=guidance)
            with span(BACKWARD_SPAN):
                self.engine.backward(_nan_unless_finite(objective) * shares)
            with span(OPTIMIZER_SPAN):
                self.engine.step()
        self._sums.add(
            predicted=predicted,
            positions=sum(batch.input_ids.numel() for batch in micro_batches),
            tokens=sum(int(batch.lengths.sum()) for batch in micro_batches),
            flops=sum(self._flops.of_training(batch) for batch in micro_batches),
            # Counted once, on one process, so that the sums of a window do not depend on their number.
            steps=int(self.cluster.is_main),
        )
        fault = self._find_fault(step, table)
        if fault is None:
            self.window.add_sums(self._sums)
            self.window.add_digest(step, totals.digest)
            self.row_losses.keep(step, table)
        else:
            self.window.add(skipped_steps=int(self.cluster.is_main))
        return StepOutcome(totals.flags, fault)

    def _agree(
        self, predicted: int, digest: int, targets: list[Targets | None], flags: list[bool]
    ) -> StepTotals:
        """Sum the step's counts and flags over all processes, in host memory."""
        counts = torch.tensor([float(predicted), float(digest), *map(float, flags)], dtype=torch.float64)
        summed = self.cluster.sum(torch.cat([counts, self.guidance.count_valid(targets)]))
        end = 2 + len(flags)
        return StepTotals(
            predicted=summed[0].item(),
            digest=add_digests(round(summed[1].item())),
            valid_rows=summed[end:],
            flags=[round(count) for count in summed[2:end].tolist()],
        )

    def _find_fault(self, step: int, table: torch.Tensor) -> Fault | None:
        """Why the engine has not updated, if so, which it knows from the gradient norm of all processes.

        Only then are the rows' losses looked at, which waits for the device.
        """
        if self.engine.was_step_applied():
            return None
        losses = self.row_losses.gather(step, table, self.cluster)
        return find_fault(losses, is_loss_scaled=can_scale_loss_less(self.engine))


def _nan_unless_finite(loss: torch.Tensor) -> torch.Tensor:
    """The same loss, to the bit, or NaN: so that its gradients are none either, and the engine does not step.

    The gradient of a loss that is not finite may well be; this asks the device nothing.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
