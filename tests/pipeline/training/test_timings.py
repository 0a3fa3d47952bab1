"""Which time counts as training, and as what; on the host's clock."""

import pytest
import torch

from pipeline.guidance.timer import CLOCK
from pipeline.processes.exchanges import EXCHANGES
from pipeline.training.timings import Timings
from tests.pipeline.fake_clock import FakeClock

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    CLOCK.take()
    return FakeClock(monkeypatch)


@pytest.fixture
def timings(clock: FakeClock) -> Timings:
    return Timings(CPU)


def take_step(timings: Timings, clock: FakeClock, seconds: float) -> None:
    with timings.step():
        clock.advance(seconds)


def test_steps_and_log_lines_count_and_what_is_between_does_not(timings: Timings, clock: FakeClock) -> None:
    take_step(timings, clock, 2.0)
    clock.advance(100.0)  # an evaluation
    take_step(timings, clock, 4.0)
    with timings.counted():
        clock.advance(0.5)

    times = timings.take()

    assert times.total == 6.5
    assert times.steps == [2.0, 4.0]
    assert times.step_percentile(50) == 3.0


def test_a_line_begins_a_new_window(timings: Timings, clock: FakeClock) -> None:
    take_step(timings, clock, 2.0)
    timings.take()
    take_step(timings, clock, 7.0)

    times = timings.take()

    assert (times.total, times.steps) == (7.0, [7.0])


def test_a_slow_step_is_seen_in_the_upper_percentile(timings: Timings, clock: FakeClock) -> None:
    for seconds in [1.0] * 9 + [11.0]:
        take_step(timings, clock, seconds)

    times = timings.take()

    assert times.step_percentile(50) == 1.0
    assert times.step_percentile(95) == pytest.approx(6.5)  # between the last two, linearly


def test_parts_are_told_apart(timings: Timings, clock: FakeClock) -> None:
    with timings.step():
        with timings.loading():
            clock.advance(1.0)
        with CLOCK.measure(CPU):
            clock.advance(2.0)
        with EXCHANGES.measure():
            clock.advance(3.0)
        clock.advance(4.0)

    times = timings.take()

    assert (times.total, times.loader, times.guidance, times.exchanges) == (10.0, 1.0, 2.0, 3.0)
    assert times.share(times.exchanges) == 0.3


def test_exchanges_and_guidance_outside_of_steps_do_not_count(timings: Timings, clock: FakeClock) -> None:
    take_step(timings, clock, 1.0)
    timings.read_clocks()
    with EXCHANGES.measure(), CLOCK.measure(CPU):  # an evaluation, which forgets what its guidance took
        clock.advance(5.0)
    CLOCK.take()

    times = timings.take()

    assert (times.guidance, times.exchanges) == (0.0, 0.0)


def test_a_window_goes_on_after_a_restart_without_the_gap(timings: Timings, clock: FakeClock) -> None:
    take_step(timings, clock, 2.0)
    state = timings.state()
    clock.advance(3600.0)
    resumed = Timings(CPU)
    resumed.restore(state)
    take_step(resumed, clock, 4.0)

    times = resumed.take()

    assert (times.total, times.steps) == (6.0, [2.0, 4.0])
    assert times.step_percentile(95) < 4.0


def test_going_back_forgets_the_steps_since(timings: Timings, clock: FakeClock) -> None:
    take_step(timings, clock, 2.0)
    state = timings.state()
    take_step(timings, clock, 50.0)
    timings.restore(state)

    assert timings.take().steps == [2.0]


def test_a_window_without_a_step_has_no_percentile(timings: Timings) -> None:
    """All of its steps were passed over."""
    assert timings.take().step_percentile(95) is None
