"""Documents -> rows of T tokens, in one of three ways. Pure: no files, no randomness of its own.

A row holds pieces of documents, each `cls tokens... sep`, then padding. The three ways differ in which
pieces stand together:

    full       one piece after the other; a document that does not fit is cut and goes on in the next row
               (RoBERTa's "full sentences", cut at tokens): no padding but in the last row
    document   every row holds pieces of one document only
    best-fit   documents longer than a row are cut, all others stay whole; the largest piece goes first,
               into the fullest row that still takes it

When one or two places of a row remain, too few for a piece, its last piece takes them with further sep
tokens, so that such a row counts as full.

    T = 12, full:  cls a a a sep cls b b b b b sep
                   cls b b b b b b sep cls c sep sep      <- the second sep fills the row
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from data_prep.format import Ints, PackedRows
from data_prep.hashing import fold
from data_prep.ragged import each, take

Packing = Literal["full", "document", "best-fit"]
PACKINGS: tuple[Packing, ...] = get_args(Packing)

_PIECE_ENDS = 2  # cls and sep
_SMALLEST_PIECE = 3  # cls, a token, sep


class PieceIds(NamedTuple):
    """The token ids that packing adds."""

    cls: int
    sep: int
    pad: int


class Pieces(NamedTuple):
    """Which tokens go where; P pieces, those of a row side by side, rows ascending from 0.

    Attributes:
        row: the row of each piece, (P,).
        document: the number of its document among those packed together, (P,).
        offset: how many of the document's tokens come before it, (P,).
        num_tokens: its tokens without cls and sep, (P,).
    """

    row: Ints
    document: Ints
    offset: Ints
    num_tokens: Ints


def pack_block(
    tokens: npt.NDArray, lengths: Ints, sequence_length: int, packing: Packing, seed: int, ids: PieceIds
) -> PackedRows:
    """Documents that are held in memory together -> their rows, in random order.

    A function of the documents: whoever has them in this order gets the same rows.

    Args:
        tokens: The documents' tokens end to end, (sum of lengths,).
        lengths: Tokens per document, (D,), each at least 1.
        sequence_length: T.
        packing: See the module docstring.
        seed: Of the order of the rows.
        ids: What is put around and behind the tokens.
    """
    pieces = place(lengths, sequence_length, packing)
    pieces = shuffle_rows(pieces, seed, len(lengths), len(tokens))
    return fill(pieces, tokens, lengths, sequence_length, ids)


def place(lengths: Ints, sequence_length: int, packing: Packing) -> Pieces:
    """Where the documents' tokens go.

    Args:
        lengths: Tokens per document, (D,), each at least 1.
        sequence_length: T.
        packing: See the module docstring.
    """
    if packing == "full":
        placed = _full(lengths.tolist(), sequence_length)
    elif packing == "document":
        placed = _by_document(lengths.tolist(), sequence_length)
    else:
        placed = _best_fit(lengths, sequence_length)
    table = np.fromiter(placed, dtype=[(name, np.int64) for name in Pieces._fields])
    return Pieces(*(table[name].copy() for name in Pieces._fields))


def shuffle_rows(pieces: Pieces, *seed: int) -> Pieces:
    """The same rows in an order drawn from `seed`, the same on every machine."""
    num_rows = int(pieces.row[-1]) + 1 if len(pieces.row) else 0
    new_row = np.empty(num_rows, dtype=np.int64)
    new_row[np.argsort(fold(*seed, np.arange(num_rows)), kind="stable")] = np.arange(num_rows)
    moved = pieces._replace(row=new_row[pieces.row])
    order = np.argsort(moved.row, kind="stable")
    return Pieces(*(column[order] for column in moved))


def fill(
    pieces: Pieces, tokens: npt.NDArray, lengths: Ints, sequence_length: int, ids: PieceIds
) -> PackedRows:
    """Write the rows.

    Args:
        pieces: From `place`.
        tokens: The documents' tokens end to end, (sum of lengths,); their type becomes the rows'.
        lengths: As given to `place`.
        sequence_length: T.
        ids: What is put around and behind the tokens.
    """
    num_rows = int(pieces.row[-1]) + 1 if len(pieces.row) else 0
    segments = pieces.num_tokens + _PIECE_ENDS
    num_pieces = np.bincount(pieces.row, minlength=num_rows)
    last = np.cumsum(num_pieces) - 1
    used = np.bincount(pieces.row, weights=segments, minlength=num_rows).astype(np.int64)
    begin = np.cumsum(segments) - segments
    begin += pieces.row * sequence_length - np.repeat(np.cumsum(used) - used, num_pieces)

    input_ids = np.full(num_rows * sequence_length, ids.pad, dtype=tokens.dtype)
    input_ids[begin] = ids.cls
    source = (np.cumsum(lengths) - lengths)[pieces.document] + pieces.offset
    for to, start, count in each(begin + 1, source, pieces.num_tokens):
        input_ids[to : to + count] = tokens[start : start + count]
    input_ids[begin + 1 + pieces.num_tokens] = ids.sep
    rows = input_ids.reshape(num_rows, sequence_length)
    for left in range(1, _SMALLEST_PIECE):
        tight = sequence_length - used == left
        rows[tight, -left:] = ids.sep
        segments[last[tight]] += left
    return PackedRows(rows, num_pieces, segments, pieces.document, pieces.offset)


def unpack(rows: PackedRows, sep_id: int) -> tuple[npt.NDArray, Ints]:
    """The documents that were packed: their tokens end to end, and their lengths.

    The rows may come in any order, but must hold whole documents; documents are numbered without gaps.
    """
    T = rows.input_ids.shape[1]
    row = np.repeat(np.arange(len(rows.input_ids)), rows.num_pieces)
    used = np.bincount(row, weights=rows.segments, minlength=len(rows.input_ids)).astype(np.int64)
    begin = np.cumsum(rows.segments) - rows.segments + row * T
    begin -= np.repeat(np.cumsum(used) - used, rows.num_pieces)
    flat = rows.input_ids.reshape(-1)
    counts = rows.segments - _PIECE_ENDS
    # A sep that only filled its row is no token of the document.
    for _ in range(1, _SMALLEST_PIECE):
        counts -= flat[begin + counts] == sep_id
    order = np.lexsort((rows.offsets, rows.documents))
    starts, counts = (begin + 1)[order], counts[order]
    tokens = take(flat, starts, counts)
    documents = rows.documents[order]
    return tokens, np.bincount(documents, weights=counts).astype(np.int64)


_Placed = Iterator[tuple[int, int, int, int]]


def _full(lengths: list[int], sequence_length: int) -> _Placed:
    row = used = 0
    for document, length in enumerate(lengths):
        offset = 0
        while offset < length:
            count = min(sequence_length - used - _PIECE_ENDS, length - offset)
            yield row, document, offset, count
            offset += count
            used += count + _PIECE_ENDS
            if sequence_length - used < _SMALLEST_PIECE:
                row, used = row + 1, 0


def _by_document(lengths: list[int], sequence_length: int) -> _Placed:
    row = 0
    room = sequence_length - _PIECE_ENDS
    for document, length in enumerate(lengths):
        for offset in range(0, length, room):
            yield row, document, offset, min(room, length - offset)
            row += 1


def _best_fit(lengths: Ints, sequence_length: int) -> _Placed:
    """Best-fit decreasing; the rows come in the order of the first document in them."""
    room = sequence_length - _PIECE_ENDS
    num_whole, rest = np.divmod(lengths, room)
    rows: list[list[tuple[int, int, int]]] = []
    for document in np.flatnonzero(num_whole).tolist():
        rows += [[(document, index * room, room)] for index in range(int(num_whole[document]))]
    by_room: list[list[int]] = [[] for _ in range(sequence_length)]
    # Bit r is set while some row has room for r more tokens: the lowest set bit from a piece's size on
    # is the tightest fit.
    rooms = 0
    order = np.argsort(-rest, kind="stable")
    for document in order[rest[order] > 0].tolist():
        count = int(rest[document])
        piece = (document, int(num_whole[document]) * room, count)
        size = count + _PIECE_ENDS
        fits = rooms >> size
        if fits:
            left = size + (fits & -fits).bit_length() - 1
            index = by_room[left].pop()
            if not by_room[left]:
                rooms ^= 1 << left
            rows[index].append(piece)
        else:
            left, index = sequence_length, len(rows)
            rows.append([piece])
        left -= size
        if left >= _SMALLEST_PIECE:
            rooms |= 1 << left
            by_room[left].append(index)
    for pieces in rows:
        pieces.sort()
    for number, pieces in enumerate(sorted(rows)):
        for piece in pieces:
            yield number, *piece
