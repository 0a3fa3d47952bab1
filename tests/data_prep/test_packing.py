"""Packing as a property: whatever the documents, the rows hold exactly them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.format import PackedRows
from data_prep.packing import PACKINGS, Packing, PieceIds, fill, place, shuffle_rows, unpack

IDS = PieceIds(cls=1, sep=2, pad=0)
FIRST_WORD = 10


def documents_of(lengths: list[int]) -> list[list[int]]:
    """Documents of distinct tokens, so that a lost, moved or doubled one shows."""
    tokens = iter(range(FIRST_WORD, FIRST_WORD + sum(lengths)))
    return [[next(tokens) for _ in range(length)] for length in lengths]


def pack(lengths: list[int], sequence_length: int, packing: Packing, seed: int | None = None) -> PackedRows:
    tokens = np.arange(FIRST_WORD, FIRST_WORD + sum(lengths), dtype=np.uint32)
    counts = np.array(lengths, dtype=np.int64)
    pieces = place(counts, sequence_length, packing)
    if seed is not None:
        pieces = shuffle_rows(pieces, seed)
    return fill(pieces, tokens, counts, sequence_length, IDS)


def pieces_by_row(rows: PackedRows) -> list[list[list[int]]]:
    found, number = [], 0
    for ids, num_pieces in zip(rows.input_ids.tolist(), rows.num_pieces.tolist()):
        pieces, start = [], 0
        for length in rows.segments[number : number + num_pieces].tolist():
            pieces.append(ids[start : start + length])
            start += length
        assert all(token == IDS.pad for token in ids[start:])
        found.append(pieces)
        number += num_pieces
    return found


document_lengths = st.lists(st.integers(1, 60), max_size=30)
packings = st.sampled_from(PACKINGS)


@given(document_lengths, st.integers(8, 40), packings, st.none() | st.integers(0, 9))
@settings(max_examples=600)
def test_every_token_is_there_once_in_order_and_marked(
    lengths: list[int], sequence_length: int, packing: Packing, seed: int | None
) -> None:
    rows = pack(lengths, sequence_length, packing, seed)
    documents = documents_of(lengths)
    found: dict[int, dict[int, list[int]]] = {}
    flat = [piece for row in pieces_by_row(rows) for piece in row]
    for piece, document, offset in zip(flat, rows.documents.tolist(), rows.offsets.tolist()):
        found.setdefault(document, {})[offset] = [token for token in piece if token >= FIRST_WORD]
    again = []
    for _, parts in sorted(found.items()):
        document = []
        for offset in sorted(parts):
            assert offset == len(document)
            document += parts[offset]
        again.append(document)
    assert again == documents
    assert len(flat) == len(rows.documents) == len(rows.offsets) == len(rows.segments)


@given(document_lengths, st.integers(8, 40), packings)
@settings(max_examples=400)
def test_pieces_are_well_formed(lengths: list[int], sequence_length: int, packing: Packing) -> None:
    rows = pack(lengths, sequence_length, packing)
    assert rows.input_ids.shape[1] == sequence_length
    assert rows.input_ids.dtype == np.uint32
    for row in pieces_by_row(rows):
        used = sum(map(len, row))
        assert used <= sequence_length - 3 or used == sequence_length
        for index, piece in enumerate(row):
            words = [token for token in piece if token >= FIRST_WORD]
            num_seps = piece.count(IDS.sep)
            assert words
            assert piece == [IDS.cls, *words, *[IDS.sep] * num_seps]
            # Only the piece that meets the row's end may take the one or two places behind it.
            assert num_seps == 1 or (index == len(row) - 1 and num_seps <= 3)


@given(document_lengths, st.integers(8, 40), packings, st.integers(0, 9))
@settings(max_examples=400)
def test_unpacking_gives_the_documents(
    lengths: list[int], sequence_length: int, packing: Packing, seed: int
) -> None:
    rows = pack(lengths, sequence_length, packing, seed)
    tokens, again = unpack(rows, IDS.sep)
    assert again.tolist() == lengths
    assert tokens.tolist() == list(range(FIRST_WORD, FIRST_WORD + sum(lengths)))


@given(document_lengths, st.integers(8, 40))
@settings(max_examples=200)
def test_full_rows_are_full(lengths: list[int], sequence_length: int) -> None:
    rows = pack(lengths, sequence_length, "full")
    assert not (rows.input_ids[:-1] == IDS.pad).any()


@given(document_lengths, st.integers(8, 40))
@settings(max_examples=200)
def test_document_rows_never_mix(lengths: list[int], sequence_length: int) -> None:
    rows = pack(lengths, sequence_length, "document")
    assert (rows.num_pieces == 1).all()
    assert len(rows.input_ids) == sum(-(-length // (sequence_length - 2)) for length in lengths)


@given(document_lengths, st.integers(8, 40))
@settings(max_examples=200)
def test_best_fit_cuts_only_what_is_longer_than_a_row(lengths: list[int], sequence_length: int) -> None:
    rows = pack(lengths, sequence_length, "best-fit")
    pieces_of = np.bincount(rows.documents, minlength=len(lengths)).tolist()
    assert pieces_of == [-(-length // (sequence_length - 2)) for length in lengths]


@given(st.lists(st.integers(1, 38), min_size=1, max_size=60))
@settings(max_examples=200)
def test_best_fit_needs_few_rows(lengths: list[int]) -> None:
    """Best-fit decreasing never needs more than 11/9 of the fewest possible rows, and one."""
    rows = pack(lengths, 40, "best-fit")
    fewest = -(-sum(length + 2 for length in lengths) // 40)
    halves = sum(length + 2 > 20 for length in lengths)
    # Places of one or two tokens cannot be used at all, which the theorem does not know of.
    assert len(rows.input_ids) <= 11 / 9 * max(fewest * 40 / 38, halves) + 1


@given(document_lengths, packings, st.integers(0, 1000))
@settings(max_examples=200)
def test_shuffling_permutes_the_rows(lengths: list[int], packing: Packing, seed: int) -> None:
    before = pieces_by_row(pack(lengths, 16, packing))
    after = pieces_by_row(pack(lengths, 16, packing, seed))
    assert sorted(before) == sorted(after)


def test_shuffled_neighbours_are_no_neighbours() -> None:
    rows = pack([10_000], 16, "document", seed=3)
    steps = np.abs(np.diff(rows.offsets))
    assert (steps == 14).mean() < 0.02
    assert pack([10_000], 16, "document", seed=4).offsets.tolist() != rows.offsets.tolist()


def test_the_example_of_the_docstring() -> None:
    rows = pack([3, 11, 1], 12, "full")
    w = FIRST_WORD
    assert rows.input_ids[0].tolist() == [1, w, w + 1, w + 2, 2, 1, *range(w + 3, w + 8), 2]
    assert rows.input_ids[1].tolist() == [1, *range(w + 8, w + 14), 2, 1, w + 14, 2, 2]
    assert rows.segments.tolist() == [5, 7, 8, 4]
    assert rows.documents.tolist() == [0, 1, 1, 2]
    assert rows.offsets.tolist() == [0, 0, 5, 0]


@pytest.mark.parametrize("packing", PACKINGS)
def test_no_document_gives_no_row(packing: Packing) -> None:
    rows = pack([], 8, packing)
    assert rows.input_ids.shape == (0, 8)
    tokens, lengths = unpack(rows, IDS.sep)
    assert len(tokens) == len(lengths) == 0
