"""The loss of every row, kept on the device until somebody looks: once per logging window, or after a fault.

G is the number of rows of a step's global batch. A table, (2, G) float32, has each row's loss, summed over
its predicted tokens, and their number; zeros where the row is another process's, so that the sum of all
processes' tables is the whole one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.batches import StepBatches
from pipeline.data.masking import IGNORED_LABEL
from pipeline.processes.cluster import Cluster


@dataclass(frozen=True)
class StepLosses:
    """A whole step, in host memory.

    Attributes:
        step: as the logs count, from 1.
        rows: row numbers of its global batch, (G,).
        sums: loss of each row in nats, summed over its predicted tokens, (G,).
        counts: predicted tokens, (G,).
    """

    step: int
    rows: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean over the step's predicted tokens."""
        return float(self.sums.sum() / self.counts.sum())

    def not_finite(self) -> list[int]:
        """Rows whose own loss is not finite, ascending."""
        return sorted(set(self.rows[~np.isfinite(self.sums)].tolist()))

    def highest(self, limit: int) -> tuple[list[int], list[float]]:
        """Rows with the highest means over their predicted tokens, and these, highest first."""
        means = self.sums / np.maximum(self.counts, 1.0)
        chosen = np.argsort(-means, kind="stable")[:limit]
        return self.rows[chosen].tolist(), means[chosen].tolist()


class RowLosses:
    """Collects the tables of the steps of a logging window."""

    def __init__(self, batches: StepBatches, device: torch.device) -> None:
        """For steps with these rows."""
        self._batches, self._device = batches, device
        self._places = torch.from_numpy(batches.geometry.rows_of_rank()).to(device)
        self._steps: list[int] = []
        self._tables: list[torch.Tensor] = []

    def new_table(self) -> torch.Tensor:
        """An empty one, (2, G)."""
        return torch.zeros(2, self._batches.geometry.global_batch_size, device=self._device)

    def enter(self, table: torch.Tensor, micro_step: int, losses: torch.Tensor, labels: torch.Tensor) -> None:
        """Enter a micro-batch: its rows' summed losses (B,), and its labels (B, K), on the device."""
        counts = (labels != IGNORED_LABEL).sum(1)
        table.index_copy_(1, self._places[micro_step], torch.stack([losses.detach(), counts.to(losses)]))

    def keep(self, step: int, table: torch.Tensor) -> None:
        """Keep the table of a step, counted from 0, for the window."""
        self._steps.append(step)
        self._tables.append(table)

    def gather(self, step: int, table: torch.Tensor, cluster: Cluster) -> StepLosses:
        """The whole step, now. All processes call this; it waits for the device."""
        return self._describe(step, cluster.sum(table.clone()))

    def take(self, cluster: Cluster) -> list[StepLosses]:
        """The window's steps, in order; the window starts anew. All processes call this."""
        if not self._steps:
            return []
        summed = cluster.sum(torch.stack(self._tables)).cpu()
        found = [self._describe(step, table) for step, table in zip(self._steps, summed)]
        self._steps, self._tables = [], []
        return found

    def state(self) -> dict[str, Any]:
        """For a checkpoint. The tensor is this process's share of a sum, all else is the same everywhere."""
        tables = torch.stack(self._tables) if self._tables else self.new_table()[None][:0]
        return {"steps": list(self._steps), "tables": tables.cpu()}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; steps of another batch size, which the user has changed since, are left out."""
        tables = state["tables"].to(self._device)
        fits = tables.shape[-1] == self._batches.geometry.global_batch_size
        self._steps, self._tables = (list(state["steps"]), list(tables)) if fits else ([], [])

    def _describe(self, step: int, table: torch.Tensor) -> StepLosses:
        sums, counts = table.cpu().double().numpy()
        return StepLosses(step + 1, self._batches.rows(step), sums, counts)
