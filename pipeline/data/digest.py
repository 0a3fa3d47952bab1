"""A fingerprint of the rows that were trained and of how they were masked.

A row's is a hash of its number and of all that the model sees and is asked of it. Those of a batch are added,
so that it does not matter how its rows are dealt out to processes and micro-batches; those of the steps are
folded in one after the other. Two runs whose logs show the same fingerprints saw the same, in the same order.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.data.counter_rng import UInt64s, make_keys, random_bits

_STREAM = 0x726F7773  # keeps the factors apart from every other use of the generator
# Digests travel between processes as float64, whose sums are exact below 2**53: those of 8192 processes.
_STEP_MASK = (1 << 40) - 1


def digest_rows(
    rows: npt.NDArray[np.int64],
    input_ids: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
) -> int:
    """Digest of some masked rows, below 2**40.

    Args:
        rows: their numbers in the split, (B,).
        input_ids: corrupted tokens, (B, T).
        positions: columns to predict, (B, K).
        labels: original tokens there, (B, K).
    """
    length, width = input_ids.shape[1], positions.shape[1]
    factors = _factors(1 + length + 2 * width)
    # An odd factor per place: whatever single value changes, the row's sum does. Squares of these are added,
    # because sums of sums would be blind to an exchange between rows.
    sums = rows.view(np.uint64) * factors[0]
    sums += input_ids.view(np.uint64) @ factors[1 : length + 1]
    sums += positions.view(np.uint64) @ factors[length + 1 : length + width + 1]
    sums += labels.view(np.uint64) @ factors[length + width + 1 :]
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
