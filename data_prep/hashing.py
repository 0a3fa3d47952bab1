"""64-bit hashes of integers, the same on every machine.

The mixing function is the finalizer of SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64-bit
integers. It spreads, it does not hide: whoever wants a collision can make one.
"""

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
_FACTOR_2 = np.uint64(0x94D049BB133111EB)


def mix(values: UInt64s) -> UInt64s:
    """SplitMix64's finalizer, elementwise; the argument is left alone."""
    mixed = values >> np.uint64(30)
    mixed ^= values
    mixed *= _FACTOR_1
    mixed ^= mixed >> np.uint64(27)
    mixed *= _FACTOR_2
    mixed ^= mixed >> np.uint64(31)
    return mixed


def fold(*parts: int | npt.NDArray) -> UInt64s:
    """Integers, or arrays of them that broadcast together -> one hash per element, shape (n,) or theirs.

    Every part changes the hash, and the order of the parts matters. Negative integers count modulo 2^64.
    """
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = mix((key ^ _as_uint64(part)) + _GOLDEN)
    return key


def _as_uint64(part: int | npt.NDArray) -> UInt64s:
    if isinstance(part, int):
        return np.array([part & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    return np.atleast_1d(part).astype(np.uint64)
