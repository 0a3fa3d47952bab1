import pytest

from pipeline.guidance.patterns import (
    PATTERN_NAMES,
    TOKEN_PATTERNS,
    EndPattern,
    OffsetPattern,
    TokenPattern,
    parse_pattern,
    reach_of,
)


@pytest.mark.parametrize(
    ("name", "offset"),
    [("next", 1), ("previous", -1), ("self", 0), ("offset+3", 3), ("offset-12", -12), ("offset+0", 0)],
)
def test_offsets_have_names(name: str, offset: int) -> None:
    assert parse_pattern(name) == OffsetPattern(offset)


def test_ends_of_a_document_have_names() -> None:
    assert parse_pattern("first") == EndPattern(last=False)
    assert parse_pattern("last") == EndPattern(last=True)


@pytest.mark.parametrize("name", TOKEN_PATTERNS)
def test_sets_of_tokens_take_their_own_ids(name: str) -> None:
    token_ids = {"delimiters": (7, 2, 0), "sentence_ends": (9, 4)}

    assert parse_pattern(name, token_ids) == TokenPattern(tuple(sorted(token_ids[name])))


@pytest.mark.parametrize("name", TOKEN_PATTERNS)
def test_sets_are_empty_while_only_names_are_looked_at(name: str) -> None:
    assert parse_pattern(name) == TokenPattern(())
    assert parse_pattern(name, {}) == TokenPattern(())


def test_order_of_a_sets_ids_makes_no_other_pattern() -> None:
    assert parse_pattern("delimiters", {"delimiters": [3, 1]}) == parse_pattern(
        "delimiters", {"delimiters": [1, 3]}
    )


@pytest.mark.parametrize(
    "name",
    ["", "prev", "Next", "offset", "offset3", "offset+", "offset+1.5", "first ", "period", "offset+1\n"],
)
def test_unknown_pattern_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="unknown pattern") as caught:
        parse_pattern(name)

    assert repr(name) in str(caught.value)
    assert PATTERN_NAMES in str(caught.value)


def test_every_name_that_a_refusal_lists_is_one() -> None:
    for name in PATTERN_NAMES.replace("K", "2").split(", "):
        parse_pattern(name)


@pytest.mark.parametrize(
    ("name", "reach"),
    [("next", 1), ("previous", 1), ("self", 0), ("offset+5", 5), ("offset-7", 7)]
    + [(name, 63) for name in ("first", "last", *TOKEN_PATTERNS)],
)
def test_reach_is_the_largest_distance_of_a_target(name: str, reach: int) -> None:
    assert reach_of(parse_pattern(name), sequence_length=64) == reach
