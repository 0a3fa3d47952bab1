import pytest

from pipeline.guidance.allocation import (
    PRESETS,
    Allocation,
    allocate,
    expand_preset,
    head_table,
    pattern_names,
)
from pipeline.guidance.patterns import parse_pattern

every_preset = pytest.mark.parametrize("preset", PRESETS)


# Head tables


def test_counts_are_for_every_layer() -> None:
    assert head_table({"next": 1, "first": 2}, None, 3) == [{"next": 1, "first": 2}] * 3


def test_counts_are_for_the_guided_layers() -> None:
    assert head_table({"next": 1}, [0, 2], 4) == [{"next": 1}, {}, {"next": 1}, {}]


def test_counts_by_range_of_layers() -> None:
    heads = {"0-1": {"next": 2}, "3-3": {"first": 1}, "4-": {"delimiters": 3}}

    table = head_table(heads, None, 6)

    assert table == [{"next": 2}, {"next": 2}, {}, {"first": 1}, {"delimiters": 3}, {"delimiters": 3}]


def test_no_heads_no_guided_layer() -> None:
    assert head_table({}, None, 3) == [{}, {}, {}]
    assert allocate(head_table({}, None, 3)).guided_layers == ()


@pytest.mark.parametrize("text", ["next", "1", "-3", "0:3", "a-b", "0-3-5", "", " 0-1", "0-1\n", "-"])
def test_what_is_no_range_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="is no range of layers; write it as 0-5") as caught:
        head_table({text: {"next": 1}}, None, 6)

    assert repr(text) in str(caught.value)
    assert "2- for all from layer 2 up" in str(caught.value)


@pytest.mark.parametrize("text", ["0-6", "6-", "4-2", "7-9"])
def test_range_beyond_the_layers_is_refused_with_the_layers(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is no range of the layers 0-5"):
        head_table({text: {"next": 1}}, None, 6)


def test_layer_in_two_ranges_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="layer 2 is in '2-5' and in an earlier range; name it once"):
        head_table({"0-2": {"next": 1}, "2-5": {"first": 1}}, None, 6)


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown preset 'papper'; the presets are paper, grid, clark"):
        head_table("papper", None, 6)


# Presets


@every_preset
@pytest.mark.parametrize("num_layers", range(2, 25))
def test_a_preset_guides_every_layer_exactly_once(preset: str, num_layers: int) -> None:
    layers = [
        layer
        for text in expand_preset(preset, num_layers)
        for first, last in [map(int, text.split("-"))]
        for layer in range(first, last + 1)
    ]

    assert layers == list(range(num_layers))
    allocation = allocate(head_table(preset, None, num_layers))
    assert allocation.guided_layers == tuple(range(num_layers))
    assert allocation.num_heads == 6


@pytest.mark.parametrize(
    ("preset", "counts"),
    [("paper", {"next": 1, "previous": 1, "first": 4}), ("grid", {"next": 2, "previous": 2, "first": 2})],
)
def test_presets_of_the_authors_are_the_same_in_every_layer(preset: str, counts: dict[str, int]) -> None:
    assert head_table(preset, None, 8) == [counts] * 8


@pytest.mark.parametrize(
    ("num_layers", "thirds"), [(12, (4, 4, 4)), (6, (2, 2, 2)), (4, (1, 2, 1)), (2, (1, 0, 1))]
)
def test_clark_goes_from_neighbours_over_separators_to_punctuation(
    num_layers: int, thirds: tuple[int, int, int]
) -> None:
    low = {"next": 2, "previous": 2, "first": 2}
    middle = {"next": 1, "previous": 1, "delimiters": 4}
    high = {"delimiters": 2, "sentence_ends": 4}

    table = head_table("clark", None, num_layers)

    assert table == [low] * thirds[0] + [middle] * thirds[1] + [high] * thirds[2]


@every_preset
def test_layers_may_be_chosen_beside_a_preset(preset: str) -> None:
    table = head_table(preset, [1, 5], 6)

    assert [bool(counts) for counts in table] == [False, True, False, False, False, True]
    assert table[5] == head_table(preset, None, 6)[5]


def test_name_of_no_preset_cannot_be_expanded() -> None:
    with pytest.raises(KeyError):
        expand_preset("papper", 4)


# Names


@pytest.mark.parametrize(
    ("heads", "names"),
    [
        ({}, []),
        ({"next": 1, "first": 2}, ["next", "first"]),
        ({"0-1": {"next": 2}, "2-": {"delimiters": 1, "next": 1}}, ["next", "delimiters"]),
        ("paper", ["next", "previous", "first"]),
        ("clark", ["next", "previous", "first", "delimiters", "sentence_ends"]),
        ("papper", []),
    ],
)
def test_names_are_told_without_a_model(heads: object, names: list[str]) -> None:
    assert pattern_names(heads) == names


@every_preset
def test_names_of_a_preset_are_those_it_gives_heads_to(preset: str) -> None:
    assert pattern_names(preset) == allocate(head_table(preset, None, 12)).names


# Allocation


def example() -> Allocation:
    """Three layers, the middle one without guidance; "offset+1" is "next" by another name."""
    table = [{"first": 2, "delimiters": 1, "next": 1}, {}, {"next": 1, "offset+1": 1, "previous": 3}]
    return allocate(table, {"delimiters": (3, 5)})


def test_heads_are_given_out_in_the_order_written() -> None:
    groups = [
        [(group.name, group.first_head, group.end_head) for group in layer] for layer in example().layers
    ]

    assert groups == [
        [("first", 0, 2), ("delimiters", 2, 3), ("next", 3, 4)],
        [],
        [("next", 0, 1), ("offset+1", 1, 2), ("previous", 2, 5)],
    ]


def test_groups_have_the_pattern_of_their_name() -> None:
    for layer in example().layers:
        for group in layer:
            assert group.pattern == parse_pattern(group.name, {"delimiters": (3, 5)})


def test_patterns_are_distinct_with_single_targets_first() -> None:
    expected = ["first", "next", "previous", "delimiters"]

    assert example().patterns == [parse_pattern(name, {"delimiters": (3, 5)}) for name in expected]


def test_every_head_knows_the_place_of_its_pattern() -> None:
    allocation = example()

    assert allocation.pattern_of_head(0) == [0, 0, 3, 1]
    assert allocation.pattern_of_head(1) == []
    assert allocation.pattern_of_head(2) == [1, 1, 2, 2, 2]


def test_numbers_of_an_allocation() -> None:
    allocation = example()

    assert allocation.names == ["first", "delimiters", "next", "offset+1", "previous"]
    assert allocation.num_heads == 5
    assert allocation.guided_layers == (0, 2)
    assert allocation.num_layer_types == 6


def test_alike_layers_have_layers_times_types() -> None:
    assert allocate(head_table("paper", None, 12)).num_layer_types == 36


@pytest.mark.parametrize("table", [[], [{}, {}]])
def test_allocation_of_nothing(table: list[dict[str, int]]) -> None:
    allocation = allocate(table)

    assert allocation.patterns == allocation.names == []
    assert allocation.num_heads == allocation.num_layer_types == 0
    assert allocation.guided_layers == ()


def test_unknown_pattern_cannot_be_given_heads() -> None:
    with pytest.raises(ValueError, match="unknown pattern 'nxt'"):
        allocate([{"nxt": 1}])
