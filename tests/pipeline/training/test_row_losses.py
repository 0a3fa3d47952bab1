"""Tables of a step's rows: the same whoever has the rows."""

import numpy as np
import pytest
import torch

from pipeline.data.batches import BatchGeometry, StepBatches
from pipeline.data.masking import IGNORED_LABEL
from pipeline.data.order import rows_of_step
from pipeline.processes.cluster import Cluster
from pipeline.training.row_losses import RowLosses, StepLosses
from pipeline.training.state import merge_windows
from tests.pipeline.data.test_batches import memory_batcher

CPU = torch.device("cpu")
GLOBAL_BATCH = 8


def collector(world_size: int = 1, rank: int = 0, micro_batch: int = 8, global_batch: int = GLOBAL_BATCH):
    geometry = BatchGeometry(
        global_batch_size=global_batch, micro_batch_size=micro_batch, world_size=world_size, rank=rank
    )
    return geometry, RowLosses(StepBatches(memory_batcher(20), geometry, order_seed=0), CPU)


def loss_of(rows: torch.Tensor, step: int) -> torch.Tensor:
    return rows.float() / 7 + step


def collect(steps: range, world_size: int, rank: int, micro_batch: int) -> RowLosses:
    """Row i of a step has i predicted tokens."""
    geometry, losses = collector(world_size, rank, micro_batch)
    for step in steps:
        table = losses.new_table()
        for micro_step, places in enumerate(torch.from_numpy(geometry.rows_of_rank())):
            labels = torch.where(torch.arange(8) < places[:, None], 5, IGNORED_LABEL)
            losses.enter(table, micro_step, loss_of(places, step).requires_grad_(), labels)
        losses.keep(step, table)
    return losses


def take(parts: list[RowLosses]) -> list[StepLosses]:
    """Merged as the state of several processes is."""
    whole = collector()[1]
    whole.restore(merge_windows([part.state() for part in parts], is_main=True))
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


def test_taking_begins_a_new_window(alone: Cluster) -> None:
    losses = collect(range(3), 1, 0, 4)
    assert len(losses.take(alone)) == 3
    assert losses.take(alone) == []
    assert losses.state()["tables"].shape == (0, 2, GLOBAL_BATCH)


def test_state_continues_a_window(alone: Cluster) -> None:
    resumed = collector()[1]
    resumed.restore(collect(range(3), 1, 0, 4).state())
    assert as_lists(resumed.take(alone)) == as_lists(collect(range(3), 1, 0, 4).take(alone))


def test_rows_of_another_batch_size_are_left_out(alone: Cluster) -> None:
    other = collector(global_batch=4, micro_batch=4)[1]
    other.restore(collect(range(3), 1, 0, 4).state())
    assert other.take(alone) == []


def test_one_step_can_be_looked_at_at_once(alone: Cluster) -> None:
    _, losses = collector()
    table = losses.new_table()
    labels = torch.full((8, 3), 5)
    losses.enter(table, 0, torch.tensor([1.0, float("nan"), 3.0, float("inf"), 5.0, 6.0, 7.0, 8.0]), labels)

    step = losses.gather(4, table, alone)

    rows = rows_of_step(4, GLOBAL_BATCH, 20, 0)[0]
    assert step.step == 5
    assert step.not_finite() == sorted(rows[[1, 3]].tolist())
    assert losses.take(alone) == []


def test_highest_are_means_over_predicted_tokens() -> None:
    step = StepLosses(1, np.array([10, 11, 12, 13]), np.array([8.0, 6.0, 9.0, 0.0]), np.array([8.0, 2, 4, 0]))
    assert step.highest(2) == ([11, 12], [3.0, 2.25])
    assert step.mean == 23 / 14
