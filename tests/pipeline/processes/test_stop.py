import os
import signal
from collections.abc import Iterator

import pytest

from pipeline.processes.stop import StopRequest


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    """A listening StopRequest; the handlers from before come back afterwards."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    stop = StopRequest()
    stop.listen()
    yield stop
    for number, handler in before.items():
        signal.signal(number, handler)


def receive(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_nothing_is_requested_at_first(stop: StopRequest) -> None:
    assert not stop.requested
    assert stop.reason is None


@pytest.fixture
def hangups_wanted() -> Iterator[None]:
    """Whatever started the tests may have told them to ignore hang-ups."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP])
def test_signal_is_noted_and_the_process_goes_on(
    hangups_wanted: None, stop: StopRequest, number: signal.Signals
) -> None:
    receive(number)

    assert stop.requested
    assert stop.reason == number.name


def test_the_first_signal_is_the_reason(stop: StopRequest) -> None:
    receive(signal.SIGUSR2)
    receive(signal.SIGTERM)

    assert stop.reason == "SIGUSR2"


def test_second_interrupt_ends_at_once(stop: StopRequest) -> None:
    receive(signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_repeated_termination_is_still_only_a_request(stop: StopRequest) -> None:
    """SLURM may repeat it; the checkpoint under way must not be lost."""
    receive(signal.SIGTERM)
    receive(signal.SIGTERM)

    assert stop.requested


def test_hangup_ignored_by_nohup_stays_ignored(hangups_wanted: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)]

    StopRequest().listen()

    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    for number, handler in zip((signal.SIGTERM, signal.SIGINT, signal.SIGUSR2), before):
        signal.signal(number, handler)


def test_not_listening_changes_no_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)

    StopRequest()

    assert signal.getsignal(signal.SIGTERM) is before
