"""Tables of a step's rows: the same whoever has the rows."""

import numpy as np
import pytest
import torch

from pipeline.data.batches import PhasedBatches
from pipeline.data.order import rows_of_step
from pipeline.data.phases import Phase
from pipeline.processes.cluster import Cluster
from pipeline.training.row_losses import RowLosses, StepLosses
from pipeline.training.state import merge_states
from tests.pipeline.data.test_batches import memory_batcher

CPU = torch.device("cpu")
GLOBAL_BATCH = 8


def phases_of(batch_sizes: dict[int, int], micro_batch: int) -> list[Phase]:
    """Phases of one corpus, from their end steps and batch sizes."""
    ends = list(batch_sizes)
    return [
        Phase(
            first_step=first_step,
            end_step=end_step,
            corpus="memory",
            global_batch_size=batch_sizes[end_step],
            micro_batch_limit=micro_batch,
        )
        for first_step, end_step in zip([0, *ends], ends)
    ]


def collector(
    world_size: int = 1, rank: int = 0, micro_batch: int = 8, batch_sizes: dict[int, int] | None = None
) -> RowLosses:
    phases = phases_of(batch_sizes or {100: GLOBAL_BATCH}, micro_batch)
    return RowLosses(PhasedBatches.of(phases, {"memory": memory_batcher(20)}, 0, world_size, rank), CPU)


def loss_of(rows: torch.Tensor, step: int) -> torch.Tensor:
    return rows.float() / 7 + step


def collect(
    steps: range,
    world_size: int,
    rank: int,
    micro_batch: int,
    batch_sizes: dict[int, int] | None = None,
) -> RowLosses:
    """Row i of a step has i predicted tokens."""
    losses = collector(world_size, rank, micro_batch, batch_sizes)
    for step in steps:
        table = losses.new_table(step)
        geometry = losses.batches.part_of(step).geometry
        for micro_step, places in enumerate(torch.from_numpy(geometry.rows_of_rank())):
            losses.enter(table, step, micro_step, torch.stack([loss_of(places, step), places.float()]))
        losses.keep(step, table)
    return losses


def take(parts: list[RowLosses], batch_sizes: dict[int, int] | None = None) -> list[StepLosses]:
    """Merged as the state of several processes is."""
    whole = collector(batch_sizes=batch_sizes)
    whole.restore(merge_states([part.state() for part in parts], is_main=True))
    return whole.take(Cluster(0, 0, 1, CPU))


def as_lists(steps: list[StepLosses]) -> list[tuple]:
    return [(s.step, s.rows.tolist(), s.sums.tolist(), s.counts.tolist()) for s in steps]


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 8), (1, 2), (2, 2), (4, 1), (8, 1)])
def test_every_division_of_work_gives_the_same_steps(world_size: int, micro_batch: int) -> None:
    found = take([collect(range(2, 5), world_size, rank, micro_batch) for rank in range(world_size)])

    assert [losses.step for losses in found] == [3, 4, 5]  # as the logs count
    for losses in found:
        assert losses.rows.tolist() == rows_of_step(losses.step - 1, GLOBAL_BATCH, 20, 0)[0].tolist()
        assert losses.sums.tolist() == loss_of(torch.arange(8), losses.step - 1).double().tolist()
        assert losses.counts.tolist() == list(range(8))


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 8), (1, 2), (2, 2), (4, 1)])
def test_a_window_may_have_batches_of_several_sizes(world_size: int, micro_batch: int) -> None:
    sizes = {3: 4, 5: 12, 100: 8}
    found = take(
        [collect(range(2, 7), world_size, rank, micro_batch, sizes) for rank in range(world_size)], sizes
    )

    assert [(losses.step, len(losses.rows)) for losses in found] == [(3, 4), (4, 12), (5, 12), (6, 8), (7, 8)]
    first_52 = rows_of_step(0, 52, 20, 0)[0]
    assert np.concatenate([losses.rows for losses in found]).tolist() == first_52[8:].tolist()
    for losses in found:
        rows = torch.arange(len(losses.rows))
        assert losses.sums.tolist() == loss_of(rows, losses.step - 1).double().tolist()
        assert losses.counts.tolist() == rows.tolist()


def test_taking_begins_a_new_window(alone: Cluster) -> None:
    losses = collect(range(3), 1, 0, 4)
    assert len(losses.take(alone)) == 3
    assert losses.take(alone) == []
    assert losses.state()["tables"].shape == (2, 0)


def test_state_continues_a_window(alone: Cluster) -> None:
    resumed = collector()
    resumed.restore(collect(range(3), 1, 0, 4).state())
    assert as_lists(resumed.take(alone)) == as_lists(collect(range(3), 1, 0, 4).take(alone))


def test_rows_of_another_batch_size_are_left_out(alone: Cluster) -> None:
    """Also where all of them together are as many as they were."""
    for sizes in ({100: 4}, {1: 4, 2: 12, 100: 8}):
        other = collector(batch_sizes=sizes)
        other.restore(collect(range(3), 1, 0, 4).state())
        assert other.take(alone) == []


def test_one_step_can_be_looked_at_at_once(alone: Cluster) -> None:
    losses = collector()
    table = losses.new_table(4)
    sums = torch.tensor([1.0, float("nan"), 3.0, float("inf"), 5.0, 6.0, 7.0, 8.0])
    losses.enter(table, 4, 0, torch.stack([sums, torch.full((8,), 3.0)]))

    step = losses.gather(4, table, alone)

    rows = rows_of_step(4, GLOBAL_BATCH, 20, 0)[0]
    assert step.step == 5
    assert step.not_finite() == sorted(rows[[1, 3]].tolist())
    assert losses.take(alone) == []


def test_highest_are_means_over_predicted_tokens() -> None:
    step = StepLosses(1, np.array([10, 11, 12, 13]), np.array([8.0, 6.0, 9.0, 0.0]), np.array([8.0, 2, 4, 0]))
    assert step.highest(2) == ([11, 12], [3.0, 2.25])
    assert step.mean == 23 / 14
