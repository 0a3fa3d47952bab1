"""The loss of every row, kept on the device until somebody looks: once per logging window, or after a fault.

G is the number of rows of a step's global batch, which may differ between the phases of a run. A table,
(2, G) float32, has each row's loss, summed over its predictions, and their number; zeros where the row
is another process's, so that the sum of all processes' tables is the whole one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.batches import PhasedBatches
from pipeline.data.phases import phase_at
from pipeline.processes.cluster import Cluster


@dataclass(frozen=True)
class StepLosses:
    """A whole step, in host memory.

    Attributes:
        step: as the logs count, from 1.
        rows: row numbers of its global batch, (G,).
        sums: loss of each row in nats, summed over its predictions, (G,).
        counts: predictions, (G,).
    """

    step: int
    rows: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean over the step's predictions."""
        return float(self.sums.sum() / self.counts.sum())

    def not_finite(self) -> list[int]:
        """Rows whose own loss is not finite, ascending."""
        return sorted(set(self.rows[~np.isfinite(self.sums)].tolist()))

    def highest(self, limit: int) -> tuple[list[int], list[float]]:
        """Rows with the highest means over their predictions, and these, highest first."""
        means = self.sums / np.maximum(self.counts, 1.0)
        chosen = np.argsort(-means, kind="stable")[:limit]
        return self.rows[chosen].tolist(), means[chosen].tolist()


class RowLosses:
    """Collects the tables of the steps of a logging window."""

    name = "row_losses"

    def __init__(self, batches: PhasedBatches, device: torch.device) -> None:
        """For steps with these rows."""
        self.batches, self._device = batches, device
        # By phase: on the device, or every micro-batch would wait for a copy.
        self._places = [torch.from_numpy(part.geometry.rows_of_rank()).to(device) for part in batches.parts]
        self._steps: list[int] = []
        self._tables: list[torch.Tensor] = []

    def new_table(self, step: int) -> torch.Tensor:
        """An empty one for a step, counted from 0, (2, G)."""
        return torch.zeros(2, self._num_rows(step), device=self._device)

    def enter(self, table: torch.Tensor, step: int, micro_step: int, rows: torch.Tensor) -> None:
        """Enter a micro-batch's rows, see Scored.rows, on the device."""
        places = self._places[phase_at(self.batches.phases, step)][micro_step]
        table.index_copy_(1, places, rows)

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
        summed = cluster.sum(torch.cat(self._tables, 1)).cpu()
        tables = summed.split([table.shape[1] for table in self._tables], 1)
        found = [self._describe(step, table) for step, table in zip(self._steps, tables)]
        self._steps, self._tables = [], []
        return found

    def state(self) -> dict[str, Any]:
        """For a checkpoint. The tensor is this process's share of a sum, all else is the same everywhere."""
        tables = torch.cat([torch.zeros(2, 0, device=self._device), *self._tables], 1)
        num_rows = [table.shape[1] for table in self._tables]
        return {"steps": list(self._steps), "num_rows": num_rows, "tables": tables.cpu()}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; with batch sizes that the user has changed since, the window is left out."""
        steps, num_rows = state["steps"], [self._num_rows(step) for step in state["steps"]]
        self._steps, self._tables = [], []
        if state.get("num_rows") == num_rows:
            self._steps, self._tables = list(steps), list(state["tables"].to(self._device).split(num_rows, 1))

    def _num_rows(self, step: int) -> int:
        return self.batches.part_of(step).geometry.global_batch_size

    def _describe(self, step: int, table: torch.Tensor) -> StepLosses:
        sums, counts = table.cpu().double().numpy()
        return StepLosses(step + 1, self.batches.part_of(step).rows(step), sums, counts)
