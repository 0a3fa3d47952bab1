"""How long blocks of a program take, without slowing an accelerator down, and their names in a profile."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def span(name: str) -> AbstractContextManager:
    """A range with this name in a profile; nothing, which is much cheaper, where none is being taken."""
    if torch.autograd._profiler_enabled():
        return torch.autograd.profiler.record_function(name)
    return nullcontext()


class Clock:
    """Collects the durations of measured blocks, which are also ranges in a profile.

    On CUDA, events are recorded and read only in `take`, so the device is never waited for in between.
    """

    def __init__(self, name: str) -> None:
        """Nothing measured; `name` is that of the ranges."""
        self._name = name
        self._seconds: list[float] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, device: torch.device) -> Iterator[None]:
        """Measure the work that the block submits to `device`."""
        if device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            with span(self._name):
                yield
            end.record()
            self._events.append((begin, end))
        else:
            started = time.perf_counter()
            with span(self._name):
                yield
            self._seconds.append(time.perf_counter() - started)

    def take_each(self) -> list[float]:
        """Seconds of every block since they were taken last, in order; waits for the device once."""
        if self._events:
            torch.cuda.synchronize()
            self._seconds += [begin.elapsed_time(end) / 1000 for begin, end in self._events]
            self._events.clear()
        seconds, self._seconds = self._seconds, []
        return seconds

    def take(self) -> float:
        """Seconds of all blocks together since they were taken last; waits for the device once."""
        return sum(self.take_each(), 0.0)
