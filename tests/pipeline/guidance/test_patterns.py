import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.guidance.patterns import PATTERN_NAMES, assign_heads, parse_pattern
from tests.pipeline.guidance.dense import target_of, targets

NAMES = ["next", "previous", "self", "first", "offset+3", "offset-2", "offset+0"]

names = st.sampled_from(NAMES)
lengths_of_batch = st.lists(st.integers(0, 12), min_size=1, max_size=5)


@given(names, lengths_of_batch)
def test_rows_with_a_target_are_valid(name: str, lengths: list[int]) -> None:
    valid = parse_pattern(name).valid_rows(torch.tensor(lengths), 12)

    expected = [[target_of(name, row, length) is not None for row in range(12)] for length in lengths]
    assert valid.tolist() == expected


@given(names, lengths_of_batch)
def test_valid_rows_are_counted_without_being_listed(name: str, lengths: list[int]) -> None:
    pattern, batch = parse_pattern(name), torch.tensor(lengths)

    assert pattern.count_valid(batch) == pattern.valid_rows(batch, 12).sum()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first_row", [0, 4, 9])
def test_blocks_of_rows_are_cut_from_the_target_matrix(name: str, first_row: int) -> None:
    size = 12
    probs = torch.rand(2, 1, size, size, dtype=torch.float64)
    target = targets(name, size, size)
    block = probs[:, :, first_row:].clone()

    mass = parse_pattern(name).on_target(block, first_row)
    parse_pattern(name).subtract(block, first_row)

    assert torch.equal(mass, (probs * target).sum(-1)[:, :, first_row:])
    assert torch.equal(block, (probs - target)[:, :, first_row:])


def test_names_are_shorthand_for_offsets() -> None:
    assert parse_pattern("next") == parse_pattern("offset+1")
    assert parse_pattern("previous") == parse_pattern("offset-1")
    assert parse_pattern("self") == parse_pattern("offset+0")


@pytest.mark.parametrize("name", ["", "prev", "Next", "offset", "offset3", "offset+", "offset+1.5", "first "])
def test_unknown_pattern_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="unknown pattern") as caught:
        parse_pattern(name)

    assert repr(name) in str(caught.value)
    assert PATTERN_NAMES in str(caught.value)


def test_heads_are_given_out_in_the_order_written() -> None:
    groups = assign_heads({"first": 2, "next": 1, "offset-2": 3})

    assert [(group.name, group.first_head, group.end_head) for group in groups] == [
        ("first", 0, 2),
        ("next", 2, 3),
        ("offset-2", 3, 6),
    ]


def test_no_heads_no_groups() -> None:
    assert assign_heads({}) == []
