"""The ordered map over processes."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from data_prep.errors import UserError
from data_prep.parallel import map_in_order


def slow_when_even(number: int) -> int:
    time.sleep(0.05 if number % 2 == 0 else 0)
    return number * number


def kill_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    raise ValueError(f"number {number}")


def test_results_come_in_order_and_reading_does_not_run_ahead() -> None:
    taken: list[int] = []
    furthest_ahead = 0

    def numbers() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    results = []
    for item, result in map_in_order(slow_when_even, numbers(), workers=2):
        results.append((item, result))
        furthest_ahead = max(furthest_ahead, len(taken) - len(results))
    assert results == [(number, number * number) for number in range(20)]
    assert furthest_ahead <= 4


def test_a_killed_worker_is_told_instead_of_waited_for() -> None:
    with pytest.raises(UserError, match=r"a worker process was killed .*--workers 2"):
        list(map_in_order(kill_at_three, range(10), workers=2))


def test_a_workers_exception_arrives() -> None:
    with pytest.raises(ValueError, match="number 0"):
        list(map_in_order(fail, range(10), workers=2))


def test_one_worker_or_one_item_needs_no_process() -> None:
    def here(number: int) -> int:  # no module-level function: it could not be sent away
        return os.getpid() + number

    assert [result for _, result in map_in_order(here, iter([1, 2]), workers=1)] == [
        os.getpid() + 1,
        os.getpid() + 2,
    ]
    assert list(map_in_order(here, [7], workers=4)) == [(7, os.getpid() + 7)]
