"""Random numbers as a function of (key, counter): no state to save, the same on any process.

The mixing function is the finalizer of SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64-bit
integers whose outputs on successive counters pass the usual batteries of tests.
"""

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]

# Arrays without dimensions: operations on short arrays take a third less time with them than with scalars.
_GOLDEN = np.array(0x9E3779B97F4A7C15, dtype=np.uint64)
_FACTOR_1 = np.array(0xBF58476D1CE4E5B9, dtype=np.uint64)
_FACTOR_2 = np.array(0x94D049BB133111EB, dtype=np.uint64)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = (np.array(bits, dtype=np.uint64) for bits in (30, 27, 31))


def mix(values: UInt64s) -> UInt64s:
    """SplitMix64 finalizer, elementwise."""
    mixed = values ^ (values >> _SHIFT_1)
    mixed *= _FACTOR_1  # in place: fresh memory costs more than the arithmetic
    mixed ^= mixed >> _SHIFT_2
    mixed *= _FACTOR_2
    mixed ^= mixed >> _SHIFT_3
    return mixed


def make_keys(*parts: int | npt.NDArray) -> UInt64s:
    """Fold integers (or equally long arrays of them) into one 64-bit key per element.

    Every part changes the key, and the order of the parts matters.
    """
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = mix((key ^ np.atleast_1d(np.asarray(part)).astype(np.uint64)) + _GOLDEN)
    return key


def random_bits(keys: UInt64s, count: int) -> UInt64s:
    """`count` independent 64-bit draws for each of n keys, shape (n, count)."""
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return mix(mix(keys)[:, None] + counters[None, :])


def to_unit(bits: UInt64s) -> npt.NDArray[np.float64]:
    """64 random bits -> uniform in [0, 1), from the upper 53."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
