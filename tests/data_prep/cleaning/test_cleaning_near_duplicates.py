"""Groups of near duplicates against a union-find that does one pair at a time."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning.near_duplicates import duplicate_pairs, ids_to_remove

LARGE = 2**64 - 1
some_ids = st.one_of(st.integers(0, 20), st.integers(LARGE - 3, LARGE))


def uint64(values: list) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def removed_one_by_one(pairs: list[tuple[int, int]]) -> list[int]:
    parents: dict[int, int] = {}

    def root(node: int) -> int:
        while parents.setdefault(node, node) != node:
            node = parents[node]
        return node

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parents[high] = low
    return sorted(node for node in parents if root(node) != node)


@given(pairs=st.lists(st.tuples(some_ids, some_ids), max_size=40))
@settings(max_examples=500, deadline=None)
def test_the_same_as_union_find(pairs: list[tuple[int, int]]) -> None:
    removed = ids_to_remove(uint64(pairs).reshape(-1, 2))
    assert removed.dtype == np.uint64
    assert removed.tolist() == removed_one_by_one(pairs)


@given(hashes=st.lists(st.tuples(st.integers(0, 4), some_ids), max_size=30))
@settings(max_examples=300, deadline=None)
def test_pairs_join_each_group_to_its_smallest_id(hashes: list[tuple[int, int]]) -> None:
    pairs = duplicate_pairs(uint64([value for value, _ in hashes]), uint64([number for _, number in hashes]))
    assert pairs.dtype == np.uint64
    expected = []
    for value in range(5):
        group = sorted({number for other, number in hashes if other == value})
        expected += [[group[0], number] for number in group[1:]]
    assert sorted(pairs.tolist()) == sorted(expected)


def test_nothing_from_nothing() -> None:
    assert duplicate_pairs(uint64([]), uint64([])).shape == (0, 2)
    assert ids_to_remove(uint64([]).reshape(0, 2)).tolist() == []


def test_resemblance_is_passed_on_across_bands() -> None:
    """9 resembles 5 in one band, 5 resembles 3 in another: 3 is kept."""
    ids = uint64([3, 5, 9, 11])
    bands = [uint64([1, 2, 2, 3]), uint64([7, 7, 8, 9])]
    pairs = np.concatenate([duplicate_pairs(band, ids) for band in bands])
    assert pairs.tolist() == [[5, 9], [3, 5]]
    assert ids_to_remove(pairs).tolist() == [5, 9]


@pytest.mark.parametrize("order", ["rising", "falling", "random", "zigzag"])
def test_a_path_of_100_000_converges_quickly(order: str) -> None:
    count = 100_000
    nodes = np.arange(count, dtype=np.uint64)
    if order == "falling":
        nodes = nodes[::-1]
    elif order == "random":
        nodes = np.random.default_rng(0).permutation(nodes)
    elif order == "zigzag":
        nodes = np.stack([nodes[: count // 2], nodes[count // 2 :]], axis=1).reshape(-1)
    started = time.process_time()
    removed = ids_to_remove(np.stack([nodes[:-1], nodes[1:]], axis=1))
    assert time.process_time() - started < 2
    assert removed.tolist() == list(range(1, count))


@pytest.mark.parametrize("centre", [0, 50_000, 99_999])
def test_a_star(centre: int) -> None:
    others = np.delete(np.arange(100_000, dtype=np.uint64), centre)
    pairs = np.stack([np.full(len(others), centre, dtype=np.uint64), others], axis=1)
    assert ids_to_remove(pairs).tolist() == list(range(1, 100_000))
