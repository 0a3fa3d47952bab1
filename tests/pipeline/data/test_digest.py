from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batches import BatchGeometry, RowBatcher, StepBatches
from pipeline.data.digest import add_digests, digest_rows, fold_step
from tests.pipeline.data.test_batches import factorizations, memory_batcher


def step_digest(batcher: RowBatcher, step: int, global_batch: int, world_size: int, micro_batch: int) -> int:
    """As the processes' sums travel: whole numbers in float64."""
    by_rank = []
    for rank in range(world_size):
        geometry = BatchGeometry(
            global_batch_size=global_batch, micro_batch_size=micro_batch, world_size=world_size, rank=rank
        )
        batches = StepBatches(batcher, geometry, order_seed=0)[step]
        by_rank.append(float(add_digests(*(batch.digest for batch in batches))))
    return add_digests(round(sum(by_rank)))


@settings(max_examples=25)
@given(st.integers(1, 60), st.sampled_from([1, 6, 8, 12]), st.integers(0, 50), st.integers(0, 2**40))
def test_every_division_of_work_has_the_same_digest(
    num_rows: int, global_batch: int, step: int, seed: int
) -> None:
    batcher = memory_batcher(num_rows, seed)
    whole = step_digest(batcher, step, global_batch, 1, global_batch)

    for world_size, micro_batch in factorizations(global_batch):
        assert step_digest(batcher, step, global_batch, world_size, micro_batch) == whole


def test_sums_of_thousands_of_processes_travel_exactly() -> None:
    largest = 2**40 - 1
    assert float(sum([largest] * 8192)) == sum([largest] * 8192)
    assert add_digests(largest, 2) == 1


ARRAYS = (
    np.array([4, 9]),
    np.array([[7, 8, 4, 6], [5, 4, 7, 1]]),
    np.array([[2, 0], [1, 3]]),
    np.array([[30, -100], [31, 32]]),
)


def digest_of(rows: np.ndarray, *fingerprint: np.ndarray) -> int:
    return digest_rows(rows, fingerprint)


@pytest.mark.parametrize("array", range(4), ids=["row number", "input", "position", "label"])
def test_every_value_counts(array: int) -> None:
    for place in np.ndindex(ARRAYS[array].shape):
        changed = [values.copy() for values in ARRAYS]
        changed[array][place] += 1
        assert digest_of(*changed) != digest_of(*ARRAYS)


@pytest.mark.parametrize("array", range(4), ids=["row number", "input", "position", "label"])
def test_rows_that_exchange_something_are_others(array: int) -> None:
    changed = [values[::-1].copy() if i == array else values for i, values in enumerate(ARRAYS)]
    assert digest_of(*changed) != digest_of(*ARRAYS)


def test_order_within_a_batch_does_not_count() -> None:
    assert digest_of(*(values[::-1].copy() for values in ARRAYS)) == digest_of(*ARRAYS)


def test_masks_of_another_seed_or_epoch_are_others() -> None:
    geometry = BatchGeometry(global_batch_size=6, micro_batch_size=6, world_size=1, rank=0)
    batches = StepBatches(memory_batcher(6), geometry, order_seed=0)
    first, second_epoch = batches[0][0].digest, batches[1][0].digest
    other_seed = StepBatches(memory_batcher(6, seed=1), geometry, order_seed=0)[0][0].digest

    assert len({first, second_epoch, other_seed}) == 3
    assert batches[0][0].digest == first


def test_digest_stays_with_the_batch() -> None:
    geometry = BatchGeometry(global_batch_size=6, micro_batch_size=6, world_size=1, rank=0)
    (batch,) = StepBatches(memory_batcher(6), geometry, order_seed=0)[0]

    assert batch.digest != 0
    assert batch.to(batch.input_ids.device).digest == batch.digest
    assert replace(batch).digest == batch.digest


def test_steps_are_folded_in_in_order() -> None:
    there = fold_step(fold_step(0, 3, 70), 4, 80)
    assert there == fold_step(fold_step(0, 3, 70), 4, 80)
    assert there != fold_step(fold_step(0, 4, 80), 3, 70)
    assert there != fold_step(fold_step(0, 3, 80), 4, 70)
    assert fold_step(0, 3, 70) not in (fold_step(0, 2, 70), fold_step(1, 3, 70), 0)
    assert 0 <= there < 2**64
