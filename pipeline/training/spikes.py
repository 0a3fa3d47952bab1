"""Steps whose loss stands out from what was usual just before.

The usual loss is the median of the last 100 steps, its spread their median absolute deviation, scaled to be
the standard deviation of a normal distribution. Neither is moved by a few spikes, and both get used to a
level that stays. While the loss falls fast, as at the start, the median lies above it, and only larger spikes
are seen. The first 20 steps have no usual loss yet, nor have those after a change of corpus: rows of another
length have other losses.
"""

from collections import deque
from statistics import median
from typing import Any

_MEMORY_STEPS = 100
_FEWEST_STEPS = 20  # the spread of fewer is hardly known
_TO_SIGMA = 1.4826  # median absolute deviation of a normal distribution to its standard deviation
_LEAST_SIGMA = 0.002  # as a share of the usual loss: batches whose losses hardly differ are no measure


class SpikeDetector:
    """Looks at the loss of one step after the other."""

    name = "spikes"

    def __init__(self, sigmas: float | None) -> None:
        """A spike lies more than so many standard deviations above the usual loss; None: nothing does."""
        self.sigmas = sigmas
        self._recent: deque[float] = deque(maxlen=_MEMORY_STEPS)
        self._is_high = False
        self._corpus: str | None = None

    @property
    def usual(self) -> float | None:
        """Median loss of the last steps; None before the first."""
        return median(self._recent) if self._recent else None

    def begin(self, corpus: str) -> None:
        """Before a step: losses of other rows than its corpus's are forgotten."""
        if self._corpus not in (None, corpus):
            self._recent.clear()
            self._is_high = False
        self._corpus = corpus

    def is_spike(self, loss: float) -> bool:
        """Whether the next step's loss, which must be finite, is one; of several in a row the first is."""
        was_high, self._is_high = self._is_high, loss > self._threshold()
        self._recent.append(loss)
        return self._is_high and not was_high

    def _threshold(self) -> float:
        if self.sigmas is None or len(self._recent) < _FEWEST_STEPS:
            return float("inf")
        usual = median(self._recent)
        spread = _TO_SIGMA * median(abs(loss - usual) for loss in self._recent)
        return usual + self.sigmas * max(spread, _LEAST_SIGMA * usual)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; the same on all processes."""
        return {"recent": list(self._recent), "is_high": self._is_high, "corpus": self._corpus}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self._recent = deque(state["recent"], maxlen=_MEMORY_STEPS)
        self._is_high, self._corpus = state["is_high"], state.get("corpus")
