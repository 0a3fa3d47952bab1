import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.order import permute, rows_of_step

seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 10**6)


def whole_epoch(num_rows: int, seed: int, epoch: int) -> list[int]:
    return permute(np.arange(num_rows), num_rows, seed, epoch).tolist()


@given(st.integers(1, 3000), seeds, epochs)
def test_an_epoch_is_a_permutation(num_rows: int, seed: int, epoch: int) -> None:
    assert sorted(whole_epoch(num_rows, seed, epoch)) == list(range(num_rows))


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 15, 16, 17, 4095, 4096, 4097])
def test_sizes_around_powers_of_two_are_permuted(num_rows: int) -> None:
    assert sorted(whole_epoch(num_rows, 0, 0)) == list(range(num_rows))


@given(st.integers(50, 1000), seeds, epochs)
def test_epochs_and_seeds_differ(num_rows: int, seed: int, epoch: int) -> None:
    order = whole_epoch(num_rows, seed, epoch)

    assert order != list(range(num_rows))
    assert order != whole_epoch(num_rows, seed, epoch + 1)
    assert order != whole_epoch(num_rows, seed ^ 1, epoch)


@given(st.integers(1, 10**12), seeds, epochs, st.data())
def test_any_position_of_a_huge_corpus_is_found_directly(
    num_rows: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, num_rows - 1))

    row = permute(np.array([position]), num_rows, seed, epoch)

    assert 0 <= row[0] < num_rows


@pytest.mark.parametrize("positions", [np.array(3), np.array([[0, 1, 2], [4, 3, 0]])])
def test_positions_may_have_any_shape(positions: np.ndarray) -> None:
    rows = permute(positions, 5, 0, 0)

    assert rows.shape == positions.shape
    assert rows.ravel().tolist() == [whole_epoch(5, 0, 0)[position] for position in positions.ravel()]


def test_every_row_comes_equally_often_at_every_position() -> None:
    num_rows, num_epochs = 10, 5000
    orders = np.array([whole_epoch(num_rows, 3, epoch) for epoch in range(num_epochs)])

    counts = np.stack([(orders == row).sum(0) for row in range(num_rows)])

    expected = num_epochs / num_rows
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_neighbours_are_torn_apart() -> None:
    order = np.array(whole_epoch(10_000, 0, 0))

    assert (np.abs(np.diff(order)) == 1).mean() < 0.001
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.04


@given(st.integers(1, 60), st.integers(1, 150), seeds)
def test_batches_cover_each_row_once_per_epoch(num_rows: int, batch: int, seed: int) -> None:
    num_steps = -(-3 * num_rows // batch)
    steps = [rows_of_step(step, batch, num_rows, seed) for step in range(num_steps)]
    rows = np.concatenate([rows for rows, _ in steps])
    epochs = np.concatenate([epochs for _, epochs in steps])

    for epoch in range(3):
        assert sorted(rows[epochs == epoch].tolist()) == list(range(num_rows))


@given(st.integers(1, 60), st.integers(1, 150), seeds, st.integers(0, 10**9))
def test_a_step_continues_where_the_one_before_ended(num_rows: int, batch: int, seed: int, step: int) -> None:
    rows, epochs = rows_of_step(step, batch, num_rows, seed)

    one_by_one = [rows_of_step(step * batch + index, 1, num_rows, seed) for index in range(batch)]
    assert rows.tolist() == [row[0] for row, _ in one_by_one]
    assert epochs.tolist() == [(step * batch + index) // num_rows for index in range(batch)]


def test_a_batch_may_cross_into_the_next_epoch() -> None:
    rows, epochs = rows_of_step(step=1, global_batch_size=6, num_rows=10, seed=0)

    assert epochs.tolist() == [0, 0, 0, 0, 1, 1]
    assert rows.tolist() == whole_epoch(10, 0, 0)[6:] + whole_epoch(10, 0, 1)[:2]
