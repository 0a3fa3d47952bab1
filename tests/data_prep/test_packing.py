"""Packing as a property: whatever the documents, the rows hold exactly them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.packing import Packer, Row

CLS, SEP, PAD = 1, 2, 0
FIRST_WORD = 10


def pack(lengths: list[int], sequence_length: int) -> tuple[list[np.ndarray], list[Row]]:
    """Documents of distinct tokens, so that a lost, moved or doubled one shows."""
    tokens = np.arange(FIRST_WORD, FIRST_WORD + sum(lengths), dtype=np.uint32)
    documents = np.split(tokens, np.cumsum(lengths)[:-1]) if lengths else []
    packer = Packer(sequence_length, CLS, SEP, PAD, np.dtype(np.uint32))
    rows = [row for document in documents for row in packer.add(document)]
    return documents, [*rows, *packer.finish()]


def pieces(row: Row) -> list[list[int]]:
    ends = np.cumsum(row.segments)
    return [row.input_ids[end - length : end].tolist() for end, length in zip(ends, row.segments)]


document_lengths = st.lists(st.integers(1, 60), max_size=30)


@given(lengths=document_lengths, sequence_length=st.integers(8, 40))
@settings(max_examples=400, deadline=None)
def test_every_token_is_there_once_and_in_order(lengths: list[int], sequence_length: int) -> None:
    documents, rows = pack(lengths, sequence_length)
    content = [token for row in rows for piece in pieces(row) for token in piece if token >= FIRST_WORD]
    assert content == [token for document in documents for token in document.tolist()]


@given(lengths=document_lengths, sequence_length=st.integers(8, 40))
@settings(max_examples=400, deadline=None)
def test_rows_are_full_and_pieces_well_formed(lengths: list[int], sequence_length: int) -> None:
    documents, rows = pack(lengths, sequence_length)
    document_of = {token: index for index, tokens in enumerate(documents) for token in tokens.tolist()}
    for row in rows[:-1]:
        assert sum(row.segments) == sequence_length
        assert PAD not in row.input_ids
    for row in rows:
        assert row.input_ids.shape == (sequence_length,)
        assert (row.input_ids[sum(row.segments) :] == PAD).all()
        for index, piece in enumerate(pieces(row)):
            words = [token for token in piece if token >= FIRST_WORD]
            num_seps = piece.count(SEP)
            assert piece == [CLS, *words, *[SEP] * num_seps]
            assert len({document_of[word] for word in words}) == 1
            # Only the piece that meets the row's end may take the one or two places behind it.
            assert num_seps == 1 or (index == len(row.segments) - 1 and num_seps <= 3)


def test_the_example_of_the_docstring() -> None:
    a, b, c = 3, 11, 1
    _, rows = pack([a, b, c], 12)
    w = FIRST_WORD
    assert rows[0].input_ids.tolist() == [CLS, w, w + 1, w + 2, SEP, CLS, *range(w + 3, w + 8), SEP]
    assert rows[0].segments == [5, 7]
    assert rows[1].input_ids.tolist() == [CLS, *range(w + 8, w + 14), SEP, CLS, w + 14, SEP, SEP]
    assert rows[1].segments == [8, 4]
    assert len(rows) == 2


def test_an_empty_document_and_an_empty_split_leave_no_row() -> None:
    packer = Packer(8, CLS, SEP, PAD, np.dtype(np.uint16))
    assert list(packer.add(np.array([], dtype=np.uint32))) == []
    assert list(packer.finish()) == []


def test_rows_do_not_share_memory() -> None:
    """The shard writer keeps rows until a batch is full."""
    _, rows = pack([100], 8)
    before = [row.input_ids.copy() for row in rows]
    rows[0].input_ids[:] = 0
    assert all((row.input_ids == copy).all() for row, copy in zip(rows[1:], before[1:]))
