"""Where this process's time goes in the steps between two lines of the log.

Time outside of steps (evaluation, checkpoints, a restart) is in none of it, the writing of a line is. Steps
are timed by the host's clock on CPU. On CUDA they are timed by events in the device's queue, which are read
once per line: the host waits for nothing, and a step lasts from when the device could begin with it until it
had done it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from pipeline.accounting.clock import Clock, span
from pipeline.guidance.timer import CLOCK
from pipeline.processes.exchanges import EXCHANGES

LOADER_SPAN, STEP_SPAN = "loader", "step"


@dataclass
class WindowTimes:
    """Times of a logging window in seconds.

    Attributes:
        total: of the steps, those without an update included, and of the writing of lines.
        loader: waiting for rows.
        guidance: in the guidance operator.
        exchanges: in exchanges with other processes, where they block this one.
        steps: of every step.
    """

    total: float = 0.0
    loader: float = 0.0
    guidance: float = 0.0
    exchanges: float = 0.0
    steps: list[float] = field(default_factory=list)

    def share(self, seconds: float) -> float:
        """Of the total."""
        return seconds / self.total

    def step_percentile(self, percent: float) -> float | None:
        """Of the steps' durations; None if there was no step."""
        return float(np.percentile(self.steps, percent)) if self.steps else None


class Timings:
    """Measures a logging window; part of a checkpoint like the window's sums."""

    def __init__(self, device: torch.device) -> None:
        """Of a process that trains on `device`."""
        self._device = device
        self._times = WindowTimes()
        self._steps = Clock(STEP_SPAN)

    @contextmanager
    def step(self) -> Iterator[None]:
        """The block is a step."""
        with self.counted(), self._steps.measure(self._device):
            yield

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The block counts as training, though it may be no step."""
        started, exchanged = time.perf_counter(), EXCHANGES.seconds
        yield
        self._times.total += time.perf_counter() - started
        self._times.exchanges += EXCHANGES.seconds - exchanged

    @contextmanager
    def loading(self) -> Iterator[None]:
        """The block, inside a step, waits for rows."""
        started = time.perf_counter()
        with span(LOADER_SPAN):
            yield
        self._times.loader += time.perf_counter() - started

    def read_clocks(self) -> None:
        """Take what the clocks have measured, before something that does not count; waits for the device."""
        self._times.guidance += CLOCK.take()
        self._times.steps += self._steps.take_each()

    def take(self) -> WindowTimes:
        """The window's times; a new one begins."""
        self.read_clocks()
        times, self._times = self._times, WindowTimes()
        return times

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        self.read_clocks()
        return asdict(self._times)

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`: what was measured since then is forgotten."""
        self.read_clocks()
        self._times = WindowTimes(**state)
