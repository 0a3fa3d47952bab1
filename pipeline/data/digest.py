"""A fingerprint of the rows that were trained and of what was drawn for them.

A row's is a hash of its number and of all that the model sees and is asked of it. Those of a batch are added,
so that it does not matter how its rows are dealt out to processes and micro-batches; those of the steps are
folded in one after the other. Two runs whose logs show the same fingerprints saw the same, in the same order.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.data.counter_rng import UInt64s, make_keys, random_bits

_STREAM = 0x726F7773  # keeps the factors apart from every other use of the generator
# Digests travel between processes as float64, whose sums are exact below 2**53: those of 8192 processes.
_STEP_MASK = (1 << 40) - 1


def digest_rows(rows: npt.NDArray[np.int64], fingerprint: Sequence[npt.NDArray[np.int64]]) -> int:
    """Digest of some rows, below 2**40.

    Args:
        rows: their numbers in the split, (B,).
        fingerprint: what was made of them, see `Drawn`; arrays (B, n) each.
    """
    factors = _factors(1 + sum(values.shape[1] for values in fingerprint))
    # An odd factor per place: whatever single value changes, the row's sum does. Squares of these are added,
    # because sums of sums would be blind to an exchange between rows.
    sums = rows.view(np.uint64) * factors[0]
    end = 1
    for values in fingerprint:
        begin, end = end, end + values.shape[1]
        sums += values.view(np.uint64) @ factors[begin:end]
    return int(sums @ sums) & _STEP_MASK


def add_digests(*digests: int) -> int:
    """Digest of the rows of several batches of one step together."""
    return sum(digests) & _STEP_MASK


def fold_step(window: int, step: int, digest: int) -> int:
    """Digest of a window of steps, below 2**64, after one more; 0 is that of no step."""
    return int(make_keys(window, step, digest)[0])


@lru_cache(maxsize=8)
def _factors(count: int) -> UInt64s:
    return random_bits(make_keys(_STREAM), count)[0] | np.uint64(1)
