"""Requests to stop: noted when a signal comes, acted on at the next step boundary by all processes."""

import signal
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)


def handle_stop_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call `handler` on every signal that means "stop"; only in a process's main thread.

    A SIGHUP that is ignored stays so: that is what nohup is for.
    """
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


class StopRequest:
    """Remembers the first stop signal; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        """Nothing requested, no handler installed."""
        self.signal_name: str | None = None

    def listen(self) -> None:
        """Install the handlers; only in the main thread of the training process."""
        handle_stop_signals(self._note)

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signal_name is not None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
