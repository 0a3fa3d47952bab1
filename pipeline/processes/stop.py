"""Requests to stop: noted when they come, acted on at the next step boundary by all processes."""

import os
import signal
from collections.abc import Callable
from types import FrameType

LAUNCHER_VARIABLE = "LODESTAR_LAUNCHER_PID"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)


def handle_stop_signals(handler: Callable[[int, FrameType | None], None], further: str | None = None) -> None:
    """Call `handler` on every signal that means "stop"; only in a process's main thread.

    A SIGHUP that is ignored stays so: that is what nohup is for. `further` names one more signal.
    """
    for number in (*_SIGNALS, *([signal.Signals[further]] if further else [])):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


class StopRequest:
    """Remembers the first reason to stop; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        """Nothing requested, no handler installed."""
        self.reason: str | None = None

    def listen(self, further: str | None = None) -> None:
        """Install the handlers; only in the main thread of the training process."""
        handle_stop_signals(self._note, further)

    def ask(self, reason: str) -> None:
        """Request a stop for another reason than a signal."""
        self.reason = self.reason or reason

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.reason is not None

    def ask_if_launcher_is_gone(self) -> None:
        """A launcher that was killed passes no signals on, and nobody would know of its processes."""
        launcher = os.environ.get(LAUNCHER_VARIABLE)
        if launcher is not None and os.getppid() != int(launcher):
            self.ask("launcher gone")

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.ask(signal.Signals(number).name)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
