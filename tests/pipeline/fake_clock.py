"""A clock that goes when it is told to."""

import time

import pytest


class FakeClock:
    """Replaces the host's clock."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(time, "perf_counter", lambda: self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds
