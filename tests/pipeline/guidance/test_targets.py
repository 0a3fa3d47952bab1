"""Targets of random documents in rows, against the explicit matrices of dense.py and by their own rules."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.documents import Documents
from pipeline.guidance.bias import is_target
from pipeline.guidance.patterns import Pattern, parse_pattern
from pipeline.guidance.targets import NO_TARGET, Targets, in_canonical_order, make_targets
from tests.pipeline.guidance.cases import documents_of
from tests.pipeline.guidance.dense import TOKEN_SETS, Rows, counted_rows, keys_of, target_matrices

SINGLE = ["next", "previous", "self", "first", "last", "offset+3", "offset-2", "offset+12", "offset-30"]
LARGEST = 14


@st.composite
def any_rows(draw: st.DrawFn) -> Rows:
    """Rows of documents of any lengths, some with padding, some of nothing else."""
    size = draw(st.integers(1, LARGEST))
    pieces = []
    for _ in range(draw(st.integers(1, 4))):
        left, lengths = draw(st.integers(0, size)), []
        while left:
            lengths.append(draw(st.integers(1, left)))
            left -= lengths[-1]
        pieces.append(lengths)
    ids = draw(st.lists(st.integers(0, 8), min_size=size * len(pieces), max_size=size * len(pieces)))
    return Rows(torch.tensor(ids).reshape(len(pieces), size), pieces)


names = st.sampled_from([*SINGLE, *3 * list(TOKEN_SETS)])


def pattern_of(name: str) -> Pattern:
    return parse_pattern(name, TOKEN_SETS)


def made(names: list[str], rows: Rows, published: bool = False) -> Targets:
    patterns = in_canonical_order([pattern_of(name) for name in names])
    return make_targets(patterns, rows.ids, documents_of(rows), published)


def distribution(targets: Targets, pattern: int = 0) -> torch.Tensor:
    """Target distributions (B, N, N), as the two shapes of targets mean them."""
    size = targets.valid.shape[-1]
    if pattern < len(targets.single):
        index = targets.single[pattern].long()[..., None]
        return (torch.arange(size) == index).double()
    keys = torch.arange(size)
    own = (keys >= targets.documents.starts[..., None]) & (keys < targets.documents.ends[..., None])
    return targets.columns[pattern - len(targets.single)][:, None].double() * own


@given(any_rows(), names, st.booleans())
def test_targets_are_those_of_the_explicit_matrices(rows: Rows, name: str, published: bool) -> None:
    targets = made([name], rows, published)

    expected = target_matrices(name, rows, published)
    torch.testing.assert_close(distribution(targets), expected, rtol=1e-6, atol=0.0)
    assert torch.equal(targets.valid[0], counted_rows(expected, rows, published))
    assert torch.equal(is_target(targets, 0), expected > 0)


@given(any_rows(), names | st.just("random-1"))
def test_a_target_never_lies_outside_its_document(rows: Rows, name: str) -> None:
    pointed = distribution(made([name], rows)) > 0

    for index, place, key in torch.nonzero(pointed).tolist():
        document = rows.document_of(index, place)
        assert place in document
        assert key in document


@given(any_rows())
def test_neighbours_end_at_the_borders_of_documents(rows: Rows) -> None:
    following, previous = made(["next", "previous"], rows).single

    for index in range(len(rows.pieces)):
        for place in range(rows.size):
            document = rows.document_of(index, place)
            is_last = place not in document or place == document[-1]
            is_first = place not in document or place == document[0]
            assert following[index, place] == (NO_TARGET if is_last else place + 1)
            assert previous[index, place] == (NO_TARGET if is_first else place - 1)


@given(any_rows(), st.integers(0, 5))
def test_random_keys_are_the_same_for_all_texts(rows: Rows, number: int) -> None:
    targets = made([f"random-{number}"], rows)

    size = rows.ids.shape[1]
    whole = made([f"random-{number}"], Rows(torch.zeros(1, size, dtype=torch.long), [[size]]))
    expected = whole.single[0].expand_as(targets.single[0])
    assert torch.equal(targets.single[0][targets.valid[0]], expected[targets.valid[0]])
    assert whole.valid.all()


def test_random_keys_have_no_order_and_differ_by_number() -> None:
    size = 512
    rows = Rows(torch.zeros(1, size, dtype=torch.long), [[size]])

    one, other = (made([f"random-{number}"], rows).single[0, 0].double() for number in (1, 2))

    places = torch.arange(size).double()
    for keys in (one, other):
        assert abs(torch.corrcoef(torch.stack([keys, places]))[0, 1]) < 0.15
        assert keys.unique().numel() > 0.55 * size  # 1 - 1/e of them are expected
    assert (one == other).double().mean() < 0.02


@given(any_rows())
def test_ends_are_those_of_the_document(rows: Rows) -> None:
    first, last = made(["first", "last"], rows).single

    for index in range(len(rows.pieces)):
        for place in range(rows.size):
            document = rows.document_of(index, place)
            assert first[index, place] == (document[0] if document else NO_TARGET)
            assert last[index, place] == (document[-1] if document else NO_TARGET)


@given(any_rows(), st.sampled_from(list(TOKEN_SETS)))
def test_shares_of_a_set_sum_to_one_or_the_row_does_not_count(rows: Rows, name: str) -> None:
    targets = made([name], rows)

    sums = distribution(targets).sum(-1)

    assert torch.equal(targets.valid[0], sums > 0)
    assert torch.allclose(sums[targets.valid[0]], torch.ones(1, dtype=torch.float64), rtol=1e-6)


@given(any_rows(), names)
def test_rows_that_do_not_count_are_those_without_a_target(rows: Rows, name: str) -> None:
    valid = made([name], rows).valid[0]

    for index, ids in enumerate(rows.ids.tolist()):
        for place in range(rows.size):
            keys = keys_of(name, place, rows.document_of(index, place), ids)
            assert valid[index, place] == bool(keys)


@given(any_rows(), st.lists(names, min_size=1, max_size=4, unique=True))
def test_rows_that_count_are_counted_per_pattern(rows: Rows, chosen: list[str]) -> None:
    counts = made(chosen, rows).count_valid()

    in_order = sorted(chosen, key=lambda name: name in TOKEN_SETS)
    expected = [int((target_matrices(name, rows).sum(-1) > 0).sum()) for name in in_order]
    assert counts.tolist() == expected
    assert counts.dtype == torch.float64


@given(any_rows(), names)
def test_published_targets_know_neither_documents_nor_padding(rows: Rows, name: str) -> None:
    targets = made([name], rows, published=True)

    whole = replace(rows, pieces=[[rows.size]] * len(rows.pieces))
    assert torch.equal(distribution(targets), distribution(made([name], whole, published=True)))


@pytest.mark.parametrize(("published", "counted"), [(False, [3, 3, 0]), (True, [4, 4, 0])])
def test_rows_that_only_fill_up_a_batch_never_count(published: bool, counted: list[int]) -> None:
    """Whatever their ids; beside rows with padding, which by the authors' code counts."""
    rows = Rows(torch.tensor([[0, 9, 2, 9]] * 3), [[3], [2, 1], []])

    valid = made(["first", "delimiters"], rows, published).valid

    assert valid[0].sum(-1).tolist() == counted
    assert valid[1].sum(-1).tolist() == counted


@given(any_rows())
def test_published_next_has_no_target_in_the_last_row_alone(rows: Rows) -> None:
    following, previous = made(["next", "previous"], rows, published=True).single

    places = torch.arange(rows.size)
    assert following.tolist() == [[*range(1, rows.size), NO_TARGET]] * len(rows.pieces)
    assert previous.tolist() == (places - 1).expand_as(previous).tolist()
    assert NO_TARGET == -1


@given(any_rows(), st.sampled_from(list(TOKEN_SETS)))
def test_published_sets_give_every_occurrence_a_one(rows: Rows, name: str) -> None:
    matrices = distribution(made([name], rows, published=True))

    for ids, matrix in zip(rows.ids.tolist(), matrices):
        expected = [float(token in TOKEN_SETS[name]) for token in ids]
        assert matrix.tolist() == [expected] * rows.size


def test_sets_are_matched_on_the_ids_given() -> None:
    ids = torch.tensor([[0, 7, 2, 5, 6, 2, 0, 0]])
    rows = Rows(ids, [[3, 3]])  # the last two are padding, whatever their ids

    delimiters, sentence_ends = made(["delimiters", "sentence_ends"], rows).columns[:, 0]

    assert delimiters.tolist() == [0.5, 0.0, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert sentence_ends.tolist() == [0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0]


def test_document_without_a_token_of_the_set_does_not_borrow_its_neighbours() -> None:
    rows = Rows(torch.tensor([[9, 9, 2, 9, 9]]), [[2, 2, 1]])

    targets = made(["delimiters"], rows)

    assert targets.valid[0].tolist() == [[False, False, True, True, False]]
    assert distribution(targets)[0].sum(-1).tolist() == [0.0, 0.0, 1.0, 1.0, 0.0]


def test_set_without_ids_has_no_targets() -> None:
    rows = Rows(torch.tensor([[0, 2, 5]]), [[3]])

    targets = make_targets([parse_pattern("delimiters")], rows.ids, documents_of(rows), False)

    assert not targets.valid.any()
    assert not targets.columns.any()


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("chosen", [[], ["next"], ["delimiters"], ["next", "last", "sentence_ends"]])
def test_shapes_and_types(chosen: list[str], published: bool) -> None:
    rows = Rows(torch.zeros(2, 5, dtype=torch.int64), [[5], [2, 1]])

    targets = made(chosen, rows, published)

    num_columns = sum(name in TOKEN_SETS for name in chosen)
    assert targets.single.shape == (len(chosen) - num_columns, 2, 5)
    assert targets.columns.shape == (num_columns, 2, 5)
    assert targets.valid.shape == (len(chosen), 2, 5)
    assert (targets.single.dtype, targets.columns.dtype) == (torch.int32, torch.float32)
    assert targets.valid.dtype == torch.bool
    assert targets.count_valid().shape == (len(chosen),)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_ids_may_have_any_type(dtype: torch.dtype) -> None:
    rows = Rows(torch.tensor([[0, 9, 2, 5]]), [[4]])

    targets = make_targets([pattern_of("delimiters")], rows.ids.to(dtype), documents_of(rows), False)

    assert targets.columns[0].tolist() == [[0.5, 0.0, 0.5, 0.0]]


def test_canonical_order_has_single_targets_first_and_none_twice() -> None:
    chosen = ["delimiters", "last", "next", "sentence_ends", "offset+1", "previous", "last"]

    ordered = in_canonical_order([pattern_of(name) for name in chosen])

    expected = ["last", "next", "previous", "delimiters", "sentence_ends"]
    assert ordered == [pattern_of(name) for name in expected]


def test_moved_targets_are_the_same_targets() -> None:
    targets = made(["next", "delimiters"], Rows(torch.tensor([[0, 1, 2]]), [[2]]))

    moved = targets.to(torch.device("meta"))

    assert moved.single.device.type == moved.columns.device.type == moved.valid.device.type == "meta"
    assert moved.documents.starts.device.type == moved.documents.ends.device.type == "meta"
    assert targets.to(torch.device("cpu")).count_valid().tolist() == [1.0, 2.0]


@given(st.lists(st.integers(0, LARGEST), min_size=1, max_size=5))
def test_one_document_per_row_is_what_the_lengths_say(lengths: list[int]) -> None:
    found = Documents.one_per_row(torch.tensor(lengths), LARGEST)

    ids = torch.zeros(len(lengths), LARGEST)
    expected = documents_of(Rows(ids, [[length] if length else [] for length in lengths]))
    assert torch.equal(found.starts, expected.starts)
    assert torch.equal(found.ends, expected.ends)
    assert found.starts.dtype == found.ends.dtype == torch.int32
