"""Time that this process spends in exchanges with the others, as far as they block it: on CPU, over gloo.

It is the time from the call of a collective to its return, or in the wait for one that was begun before. So
it holds the transfer and the wait for the slowest process: a share of 30 % may be a slow network or a process
that has more to do than this one. On CUDA a collective returns when it is queued, and this says nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from pipeline.accounting.clock import span

SPAN = "communication"
_COLLECTIVES = (
    *("all_reduce", "all_reduce_coalesced", "reduce", "broadcast", "barrier"),
    *(
        "reduce_scatter",
        "reduce_scatter_tensor",
        "all_gather",
        "all_gather_into_tensor",
        "all_gather_coalesced",
    ),
    *("all_to_all", "all_to_all_single"),
)


class ExchangeTimer:
    """Adds up the time in exchanges; one inside another counts once.

    Attributes:
        seconds: since the process started.
    """

    def __init__(self) -> None:
        """Nothing measured."""
        self.seconds = 0.0
        self._is_measuring = False

    @contextmanager
    def measure(self) -> Iterator[None]:
        """The block is an exchange."""
        if self._is_measuring:
            yield
            return
        self._is_measuring = True
        started = time.perf_counter()
        try:
            with span(SPAN):
                yield
        finally:
            self.seconds += time.perf_counter() - started
            self._is_measuring = False

    def watch(self, backend: Any) -> None:
        """Measure the collectives of a DeepSpeed backend from now on; to be called once for each."""
        for name in _COLLECTIVES:
            if hasattr(backend, name):
                setattr(backend, name, self._timed(getattr(backend, name)))

    def _timed(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(collective)
        def call(*arguments: Any, **options: Any) -> Any:
            with self.measure():
                work = collective(*arguments, **options)
            return _TimedWork(work, self) if hasattr(work, "wait") else work

        return call


class _TimedWork:
    """A collective under way, whose end is still to be waited for."""

    def __init__(self, work: Any, timer: ExchangeTimer) -> None:
        self._work, self._timer = work, timer

    def wait(self, *arguments: Any) -> Any:
        with self._timer.measure():
            return self._work.wait(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


EXCHANGES = ExchangeTimer()  # one for the process, as its process group is
