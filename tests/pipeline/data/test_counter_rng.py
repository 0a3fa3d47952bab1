import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.counter_rng import make_keys, mix, random_bits, to_unit

integers = st.integers(0, 2**63 - 1)


def test_mix_is_splitmix64() -> None:
    """The generator's first outputs from state 0, as published with its reference implementation."""
    states = np.array([1, 2, 3], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)

    assert [hex(value) for value in mix(states)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_mix_is_the_same_by_plain_integers(states: list[int]) -> None:
    values = np.array(states, dtype=np.uint64)

    mixed = mix(values)

    for state, found in zip(states, mixed.tolist()):
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        assert found == state ^ (state >> 31)
    assert values.tolist() == states  # what was given is left alone


@given(integers, integers, integers)
def test_every_part_changes_the_key(a: int, b: int, c: int) -> None:
    keys = [make_keys(*parts)[0] for parts in [(a, b, c), (a ^ 1, b, c), (a, b ^ 1, c), (a, b, c ^ 1)]]

    assert len(set(keys)) == 4


def test_order_and_number_of_parts_matter() -> None:
    keys = [make_keys(*parts)[0] for parts in [(1, 2), (2, 1), (1,), (1, 2, 0), (0, 1, 2)]]

    assert len(set(keys)) == 5


def test_keys_of_small_numbers_are_distinct() -> None:
    seeds, epochs, rows = np.meshgrid(np.arange(10), np.arange(20), np.arange(500))

    keys = make_keys(seeds.ravel(), epochs.ravel(), rows.ravel())

    assert len(np.unique(keys)) == 10 * 20 * 500


def test_an_array_of_parts_gives_the_key_of_each() -> None:
    rows = np.array([5, 0, 2**40])

    keys = make_keys(7, 3, rows)

    assert keys.tolist() == [make_keys(7, 3, int(row))[0] for row in rows]


@given(st.lists(integers, min_size=1, max_size=5), st.integers(1, 20))
def test_draws_of_a_key_do_not_depend_on_its_company(parts: list[int], count: int) -> None:
    keys = make_keys(np.array(parts))

    together = random_bits(keys, count)

    alone = [random_bits(keys[index : index + 1], count)[0] for index in range(len(parts))]
    assert np.array_equal(together, np.stack(alone))


def test_unit_draws_are_uniform_and_uncorrelated() -> None:
    draws = to_unit(random_bits(make_keys(1, np.arange(1000)), 100))

    assert ((draws >= 0.0) & (draws < 1.0)).all()
    assert abs(draws.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / draws.size)
    counts, _ = np.histogram(draws, bins=100, range=(0.0, 1.0))
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    neighbours = np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]
    next_keys = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert max(abs(neighbours), abs(next_keys)) < 4 / np.sqrt(draws.size)


def test_unit_draws_stay_below_one() -> None:
    extremes = to_unit(np.array([0, 2**64 - 1], dtype=np.uint64))

    assert extremes[0] == 0.0
    assert 1.0 - 1e-15 < extremes[1] < 1.0
