"""One optimizer step: forward and backward for each micro-batch, then the update."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.accounting.clock import span
from pipeline.accounting.flops import FlopCounter
from pipeline.accounting.metrics import WindowSums
from pipeline.data.batches import Batch
from pipeline.data.digest import add_digests
from pipeline.engine import PretrainingModule, can_scale_loss_less, total_loss
from pipeline.processes.cluster import Cluster
from pipeline.training.faults import Fault, find_fault
from pipeline.training.row_losses import RowLosses

FORWARD_SPAN, BACKWARD_SPAN, OPTIMIZER_SPAN = "forward", "backward", "optimizer"


@dataclass(frozen=True)
class StepTotals:
    """What all processes together put into a step.

    Attributes:
        counts: denominators of the losses and whatever else the batches count, by name.
        digest: of all rows, see data/digest.py.
        flags: how many processes raised each flag, in the order given to `StepRunner.run`.
    """

    counts: dict[str, float]
    digest: int
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


@dataclass
class StepRunner:
    """Takes optimizer steps with an engine.

    Attributes:
        engine: around `module`.
        module: what it trains.
        learning_rate: of a step, which counts from 0.
        window: gets the sums of steps without a fault.
        row_losses: gets their rows.
        cluster: the processes; all call `run`.
    """

    engine: Any
    module: PretrainingModule
    learning_rate: Callable[[int], float]
    window: WindowSums
    row_losses: RowLosses
    cluster: Cluster

    def __post_init__(self) -> None:
        """Know what a forward pass of each network costs."""
        self._flops = FlopCounter(self.module.objective)

    def run(self, step: int, micro_batches: list[Batch], flags: list[bool]) -> StepOutcome:
        """Take step number `step`, counted from 0.

        A loss or gradient that is not finite, on whatever process, leaves weights and optimizer as they are
        on all of them.

        Args:
            step: number of steps taken before.
            micro_batches: this process's rows, in host memory.
            flags: what this process has to say to all (a wish to stop, a finished save); they travel with
                the counts that the step needs anyway.
        """
        for batch in micro_batches:
            self.module.prepare(batch, step)
        totals = self._agree(micro_batches, flags)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        sums, table = WindowSums(self.cluster.device), self.row_losses.new_table(step)
        for micro_step, batch in enumerate(micro_batches):
            with span(FORWARD_SPAN):
                scored = self.engine(batch.to(self.cluster.device), step, totals.counts)
            self.row_losses.enter(table, step, micro_step, scored.rows)
            sums.add({**batch.counts, **scored.sums, "flops": self._flops(batch)})
            loss = _nan_unless_finite(total_loss(scored, totals.counts))
            # DeepSpeed averages over micro-steps and processes; ours are shares of the global batch's loss.
            shares = len(micro_batches) * self.cluster.world_size
            with span(BACKWARD_SPAN):
                self.engine.backward(loss * shares)
            with span(OPTIMIZER_SPAN):
                self.engine.step()
        return StepOutcome(totals.flags, self._keep(step, sums, table, totals.digest))

    def _agree(self, micro_batches: list[Batch], flags: list[bool]) -> StepTotals:
        """Sum the step's counts and flags over all processes, in host memory."""
        names = sorted(micro_batches[0].counts)
        counts = [sum(batch.counts[name] for batch in micro_batches) for name in names]
        digest = add_digests(*(batch.digest for batch in micro_batches))
        mine = torch.tensor([float(digest), *map(float, flags), *counts], dtype=torch.float64)
        digests, *summed = self.cluster.sum(mine).tolist()
        return StepTotals(
            counts=dict(zip(names, summed[len(flags) :])),
            digest=add_digests(round(digests)),
            flags=[round(count) for count in summed[: len(flags)]],
        )

    def _keep(self, step: int, sums: WindowSums, table: torch.Tensor, digest: int) -> Fault | None:
        """Take a step into the window, or only count it and say why there was no update.

        The engine knows from the gradient norm of all processes whether there was one. Only if not are the
        rows' losses read, which waits for the device.
        """
        # Counted once, on one process, so that the sums of a window do not depend on their number.
        one = int(self.cluster.is_main)
        if not self.engine.was_step_applied():
            self.window.add({"skipped_steps": one})
            losses = self.row_losses.gather(step, table, self.cluster)
            return find_fault(losses, is_loss_scaled=can_scale_loss_less(self.engine))
        self.window.add_sums(sums)
        self.window.add({"steps": one})
        self.window.add_digest(step, digest)
        self.row_losses.keep(step, table)
        return None


def _nan_unless_finite(loss: torch.Tensor) -> torch.Tensor:
    """The same loss, to the bit, or NaN: so that its gradients are none either, and the engine does not step.

    The gradient of a loss that is not finite may well be; this asks the device nothing.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
