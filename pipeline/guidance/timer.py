"""Time spent in a part of the step, without slowing an accelerator down."""

import time

import torch


class Timer:
    """Adds up the duration of `with timer:` blocks.

    On CUDA, events are recorded and read only in `take`, so the device is never waited for in between.
    """

    def __init__(self, device: torch.device) -> None:
        """Measure work submitted to `device`."""
        self._is_cuda = device.type == "cuda"
        self._seconds = 0.0
        self._started = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        if self._is_cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            self._events.append((begin, end))
        else:
            self._started = time.perf_counter()

    def __exit__(self, *_error: object) -> None:
        if self._is_cuda:
            self._events[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._started

    def take(self) -> float:
        """Seconds since the last `take`; waits for the device once."""
        if self._events:
            torch.cuda.synchronize()
            self._seconds += sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
            self._events.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds
