"""Collectives of a backend are measured and otherwise left as they are."""

import pytest

from pipeline.processes.exchanges import ExchangeTimer
from tests.pipeline.fake_clock import FakeClock


class Work:
    """A transfer under way that takes five seconds to wait for."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.exception = "none"

    def wait(self) -> str:
        self.clock.advance(5.0)
        return "arrived"


class Backend:
    """Two of DeepSpeed's collectives, and something that is none."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def all_reduce(self, tensor: int, group: str = "all") -> tuple[int, str]:
        self.clock.advance(2.0)
        return tensor, group

    def all_gather_into_tensor(self) -> Work:
        self.clock.advance(0.5)
        return Work(self.clock)

    def broadcast(self) -> None:
        raise RuntimeError("connection closed")

    def get_rank(self) -> int:
        self.clock.advance(9.0)
        return 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


@pytest.fixture
def timer() -> ExchangeTimer:
    return ExchangeTimer()


@pytest.fixture
def backend(clock: FakeClock, timer: ExchangeTimer) -> Backend:
    made = Backend(clock)
    timer.watch(made)
    return made


def test_blocking_collectives_are_measured(backend: Backend, timer: ExchangeTimer) -> None:
    assert backend.all_reduce(7, group="some") == (7, "some")
    assert backend.get_rank() == 3

    assert timer.seconds == 2.0


def test_the_wait_for_one_under_way_is_measured(
    backend: Backend, timer: ExchangeTimer, clock: FakeClock
) -> None:
    work = backend.all_gather_into_tensor()
    clock.advance(100.0)  # what the process does meanwhile

    assert work.wait() == "arrived"
    assert work.exception == "none"
    assert timer.seconds == 5.5


def test_one_inside_another_counts_once(backend: Backend, timer: ExchangeTimer, clock: FakeClock) -> None:
    with timer.measure():
        clock.advance(1.0)
        backend.all_reduce(7)

    assert timer.seconds == 3.0


def test_a_broken_connection_is_passed_on_and_the_timer_goes_on(
    backend: Backend, timer: ExchangeTimer
) -> None:
    with pytest.raises(RuntimeError, match="connection closed"):
        backend.broadcast()
    backend.all_reduce(7)

    assert timer.seconds == 2.0
