"""From corpus rows to the tensors of one optimizer step on one process.

Row i of a step's global batch belongs to micro-step i // (W * m) and rank (i // m) % W, for W processes
and micro-batches of m rows: the same rows make the same global batch whatever W and m are.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.corpus import CorpusSplit
from pipeline.data.digest import digest_rows
from pipeline.data.documents import Documents
from pipeline.data.draws import Draw, RowKeys
from pipeline.data.order import rows_of_step
from pipeline.data.phases import Phase, phase_at, place_of_step_zero

_EVALUATION_EPOCH = 0  # of the draws for held-out rows, always


@dataclass(kw_only=True)
class Batch:
    """Rows of one forward pass as they are in the corpus, and what was drawn for them.

    Attributes:
        columns: by name, rows in front: `input_ids`, the tokens, (B, T), and what the objective and the
            regularizers add.
        counts: denominators of losses and metrics; `tokens` (real ones) and `positions` (with padding) are
            always there.
        lengths: real tokens per row, (B,).
        documents: which document each position belongs to.
        full: no row has padding, so no attention mask is needed (known here without asking the device).
        digest: of the rows and draws, see digest.py.
        borders: see Documents.borders, where attention is to stay inside documents; None where it crosses
            their borders.
    """

    columns: dict[str, torch.Tensor]
    counts: dict[str, float]
    lengths: torch.Tensor
    documents: Documents
    full: bool
    digest: int = 0
    borders: torch.Tensor | None = None

    @property
    def input_ids(self) -> torch.Tensor:
        """The rows' tokens, uncorrupted, (B, T)."""
        return self.columns["input_ids"]

    def to(self, device: torch.device) -> "Batch":
        """The same rows on `device`, copied asynchronously where the memory is pinned."""
        return replace(
            self,
            columns={name: values.to(device, non_blocking=True) for name, values in self.columns.items()},
            lengths=self.lengths.to(device, non_blocking=True),
            documents=self.documents.to(device),
            borders=None if self.borders is None else self.borders.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "Batch":
        """Called by DataLoader when it pins batches."""
        return replace(
            self,
            columns={name: values.pin_memory() for name, values in self.columns.items()},
            lengths=self.lengths.pin_memory(),
            documents=self.documents.pin_memory(),
            borders=None if self.borders is None else self.borders.pin_memory(),
        )

    def attention_mask(self) -> torch.Tensor | None:
        """1 for real tokens, (B, T); None when there is no padding."""
        if self.full:
            return None
        columns = torch.arange(self.input_ids.shape[1], device=self.lengths.device)
        # A filler row has no tokens; one key to look at keeps its softmax finite.
        return (columns < self.lengths.clamp(min=1)[:, None]).long()


class RowBatcher:
    """Reads any rows of a split and draws for them."""

    def __init__(
        self, split: CorpusSplit, draw: Draw, seed: int, *, attend_across_documents: bool = True
    ) -> None:
        """`seed` is that of the draws; see Batch.borders for `attend_across_documents`."""
        self.split = split
        self.draw = draw
        self.seed = seed
        self.attend_across_documents = attend_across_documents

    def batch(
        self,
        rows: npt.NDArray[np.int64],
        epochs: npt.NDArray[np.int64] | int,
        is_filler: npt.NDArray[np.bool_] | None = None,
    ) -> Batch:
        """The rows as one batch, drawn for as in the given epochs; fillers (B,) as if they had no tokens."""
        found = self.split.read(rows)
        if is_filler is not None:
            found.lengths[is_filler] = 0
            found.starts[is_filler] = found.ends[is_filler] = 0
        drawn = self.draw(found, RowKeys(self.seed, epochs, rows))
        documents = Documents(starts=torch.from_numpy(found.starts), ends=torch.from_numpy(found.ends))
        columns = {"input_ids": found.input_ids, **drawn.columns}
        return Batch(
            columns={name: torch.from_numpy(values) for name, values in columns.items()},
            counts={
                "tokens": float(found.lengths.sum()),
                "positions": float(found.input_ids.size),
                **drawn.counts,
            },
            lengths=torch.from_numpy(found.lengths),
            documents=documents,
            full=bool((found.lengths == self.split.sequence_length).all()),
            digest=digest_rows(rows, drawn.fingerprint),
            borders=None if self.attend_across_documents else documents.borders(),
        )


@dataclass(frozen=True, kw_only=True)
class BatchGeometry:
    """How a global batch is dealt out: global = micro * world_size * accumulation."""

    global_batch_size: int
    micro_batch_size: int
    world_size: int
    rank: int

    @property
    def accumulation_steps(self) -> int:
        """Micro-steps per optimizer step."""
        return self.global_batch_size // (self.micro_batch_size * self.world_size)

    def rows_of_rank(self) -> npt.NDArray[np.int64]:
        """Indices into the global batch, shape (accumulation_steps, micro_batch_size)."""
        indices = np.arange(self.global_batch_size, dtype=np.int64)
        dealt = indices.reshape(self.accumulation_steps, self.world_size, self.micro_batch_size)
        return dealt[:, self.rank]


class StepBatches(Dataset):
    """Item `step` is the list of this rank's micro-batches of that optimizer step."""

    def __init__(
        self, batcher: RowBatcher, geometry: BatchGeometry, order_seed: int, place_of_step_zero: int = 0
    ) -> None:
        """`order_seed` seeds the row order; see rows_of_step for `place_of_step_zero`."""
        self.batcher = batcher
        self.geometry = geometry
        self.order_seed = order_seed
        self.place_of_step_zero = place_of_step_zero

    def rows(self, step: int) -> npt.NDArray[np.int64]:
        """Row numbers of the step's global batch, of all ranks, (global_batch_size,)."""
        return self._rows_and_epochs(step)[0]

    def __getitem__(self, step: int) -> list[Batch]:
        """Build the step's micro-batches; a function of the step alone."""
        rows, epochs = self._rows_and_epochs(step)
        return [self.batcher.batch(rows[chosen], epochs[chosen]) for chosen in self.geometry.rows_of_rank()]

    def epochs_before(self, step: int) -> float:
        """Passes over the corpus before the step, as a fraction."""
        place = self.place_of_step_zero + step * self.geometry.global_batch_size
        return place / self.batcher.split.num_rows

    def _rows_and_epochs(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return rows_of_step(
            step,
            self.geometry.global_batch_size,
            self.batcher.split.num_rows,
            self.order_seed,
            self.place_of_step_zero,
        )


class PhasedBatches(Dataset):
    """Item `step` is that of the phase that the step is in."""

    def __init__(self, phases: Sequence[Phase], parts: Sequence[StepBatches]) -> None:
        """`parts` has what each of the phases trains."""
        self.phases = phases
        self.parts = parts

    @staticmethod
    def of(
        phases: Sequence[Phase],
        batchers: Mapping[str, RowBatcher],
        order_seed: int,
        world_size: int,
        rank: int,
    ) -> "PhasedBatches":
        """Those of one of so many processes; `batchers` has what reads each corpus that a phase names."""
        parts = []
        for index, phase in enumerate(phases):
            geometry = BatchGeometry(
                global_batch_size=phase.global_batch_size,
                micro_batch_size=phase.micro_batch_size(world_size),
                world_size=world_size,
                rank=rank,
            )
            place = place_of_step_zero(phases, index)
            parts.append(StepBatches(batchers[phase.corpus], geometry, order_seed, place))
        return PhasedBatches(phases, parts)

    def part_of(self, step: int) -> StepBatches:
        """Those of the step's phase."""
        return self.parts[phase_at(self.phases, step)]

    def __getitem__(self, step: int) -> list[Batch]:
        """As StepBatches has it."""
        return self.part_of(step)[step]


def load_steps(
    batches: StepBatches | PhasedBatches, steps: Sequence[int], num_workers: int, pin_memory: bool
) -> Iterator[list[Batch]]:
    """Iterate over some steps, in their order, prepared ahead by `num_workers` processes."""
    return iter(
        DataLoader(
            batches,
            sampler=steps,
            batch_size=None,
            num_workers=num_workers,
            # Forked workers share the mapped shards; any other way would copy them to each.
            multiprocessing_context="fork" if num_workers else None,
            pin_memory=pin_memory,
            # A worker keeps no one waiting, and would otherwise inherit a collector that is off.
            worker_init_fn=_collect_garbage if num_workers else None,
            # Its own, or starting the loader would draw from the generator that dropout uses.
            generator=torch.Generator(),
        )
    )


def _collect_garbage(worker: int) -> None:
    gc.enable()


def rows_evaluated(num_rows: int, max_rows: int | None) -> int:
    """How many of a split's rows an evaluation of at most `max_rows` (None: all) uses."""
    return min(num_rows, max_rows or num_rows)


def evaluation_batches(
    batcher: RowBatcher, max_rows: int | None, batch_size: int, rank: int, world_size: int
) -> Iterator[Batch]:
    """This rank's share of the first `max_rows` held-out rows, with draws that never change.

    Every rank gets the same number of batches (ZeRO-3 gathers weights in each forward pass, so no rank
    may make fewer); where rows run out, a batch has filler rows without tokens and nothing to predict.
    """
    num_rows = rows_evaluated(batcher.split.num_rows, max_rows)
    for start in range(0, num_rows, batch_size * world_size):
        rows = np.arange(start + rank * batch_size, start + (rank + 1) * batch_size, dtype=np.int64)
        yield batcher.batch(np.where(rows < num_rows, rows, 0), _EVALUATION_EPOCH, rows >= num_rows)
