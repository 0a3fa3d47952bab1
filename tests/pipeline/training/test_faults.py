import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.faults import BadSeries, Fault, find_fault, name_rows
from pipeline.training.row_losses import StepLosses


def losses_of(sums: list[float], counts: list[int] | None = None) -> StepLosses:
    """Rows 100, 101, ... of step 7."""
    rows = np.arange(100, 100 + len(sums))
    return StepLosses(7, rows, np.array(sums), np.array(counts or [2] * len(sums), dtype=float))


@pytest.mark.parametrize("is_loss_scaled", [False, True])
def test_rows_whose_loss_is_not_finite_are_to_blame(is_loss_scaled: bool) -> None:
    losses = losses_of([3.0, float("nan"), 1e30, float("inf")])
    assert find_fault(losses, is_loss_scaled) == Fault(7, [101, 103], "loss")


def test_with_finite_losses_it_is_the_gradient_and_the_highest_are_named() -> None:
    losses = losses_of([float(i) for i in range(30)], [1] * 29 + [100])
    fault = find_fault(losses, is_loss_scaled=False)
    assert fault == Fault(7, [128, 127, 126, 125, 124, 123, 122, 121, 120, 119], "gradient")
    assert "although every row's loss is" in str(fault)


def test_the_search_for_a_loss_scale_is_no_fault() -> None:
    assert find_fault(losses_of([3.0, 4.0]), is_loss_scaled=True) is None


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_a_series_is_full_after_so_many_bad_steps_without_a_good_one(bad: list[bool], limit: int) -> None:
    series = BadSeries(limit)
    for step, is_bad in enumerate(bad):
        series.note(Fault(step, [step], "loss") if is_bad else None)
        tail = bad[: step + 1]
        in_a_row = next((n for n, is_bad in enumerate(reversed(tail)) if not is_bad), len(tail))
        assert series.is_open == is_bad
        assert series.is_full == (in_a_row >= limit)
        assert series.steps == list(range(step + 1 - in_a_row, step + 1))


def test_many_rows_are_not_all_printed() -> None:
    assert name_rows([5, 6]) == "5, 6"
    assert name_rows(list(range(14))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 4 more"
