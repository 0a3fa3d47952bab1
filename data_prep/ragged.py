"""Pieces of different lengths in one flat array, millions of them, without as many Python objects at once."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_AT_ONCE = 1 << 14  # a view costs a hundred bytes


def each(*columns: npt.NDArray) -> Iterator[tuple[int, ...]]:
    """The rows of some columns of integers, all of shape (n,)."""
    for first in range(0, len(columns[0]), _AT_ONCE):
        yield from zip(*(column[first : first + _AT_ONCE].tolist() for column in columns))


def take(flat: npt.NDArray, starts: npt.NDArray, lengths: npt.NDArray) -> npt.NDArray:
    """The pieces that begin at `starts` (n,) and have `lengths` (n,), end to end, (sum of lengths,)."""
    taken = np.empty(int(lengths.sum()), dtype=flat.dtype)
    end = 0
    for start, length in each(starts, lengths):
        taken[end : end + length] = flat[start : start + length]
        end += length
    return taken
