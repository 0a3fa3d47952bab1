"""Documents -> full rows of T tokens. Pure: no files, no randomness.

A row holds document pieces, each `cls tokens... sep`. A document that does not fit is cut and goes on in
the next row as a piece of its own, so no token is lost or repeated. When one or two places remain, too few
for a piece, the row's last piece takes them with further sep tokens. Hence only the last row of a split
carries padding, and a row is described by the lengths of its pieces alone.

    T = 12:  cls a a a sep cls b b b b b sep
             cls b b b b b b sep cls c sep sep      <- the second sep fills the row
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_SMALLEST_PIECE = 3  # cls, a token, sep


class Row(NamedTuple):
    """A packed row: ids of shape (T,), and the token counts of its pieces; padding lies behind them."""

    input_ids: npt.NDArray
    segments: list[int]


class Packer:
    """Packs one split's documents, in the order they are added."""

    def __init__(self, sequence_length: int, cls_id: int, sep_id: int, pad_id: int, dtype: np.dtype) -> None:
        """Rows of `sequence_length` ids of type `dtype`."""
        self._length = sequence_length
        self._cls = cls_id
        self._sep = sep_id
        self._pad = pad_id
        self._dtype = dtype
        self._begin_row()

    def add(self, tokens: npt.NDArray) -> Iterator[Row]:
        """Append a document, ids of shape (n,) without special tokens; yields the rows it completes."""
        start = 0
        while start < len(tokens):
            count = min(self._length - self._used - 2, len(tokens) - start)
            self._append_piece(tokens[start : start + count])
            start += count
            if self._length - self._used < _SMALLEST_PIECE:
                yield self._filled_row()

    def finish(self) -> Iterator[Row]:
        """The last row, padded, if anything is left; the packer is then empty."""
        if self._segments:
            row = Row(self._ids, self._segments)
            self._begin_row()
            yield row

    def _begin_row(self) -> None:
        self._ids = np.full(self._length, self._pad, dtype=self._dtype)
        self._segments: list[int] = []
        self._used = 0

    def _append_piece(self, tokens: npt.NDArray) -> None:
        end = self._used + len(tokens) + 1
        self._ids[self._used] = self._cls
        self._ids[self._used + 1 : end] = tokens
        self._ids[end] = self._sep
        self._segments.append(len(tokens) + 2)
        self._used = end + 1

    def _filled_row(self) -> Row:
        self._ids[self._used :] = self._sep
        self._segments[-1] += self._length - self._used
        row = Row(self._ids, self._segments)
        self._begin_row()
        return row
