"""What becomes of a kept document depends on its text and the seed, on nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.selection import Digest, digest_of, document_ids, num_copies, order_keys, split_of

TEXTS = [f"document {number}" for number in range(4000)]


def test_the_held_out_share_grows_with_the_fraction() -> None:
    def held_out(fraction: float) -> set[str]:
        return {text for text in TEXTS if split_of(digest_of(text), fraction) == "valid"}

    small, large = held_out(0.1), held_out(0.3)
    assert small < large
    assert 320 < len(small) < 480
    assert held_out(0.0) == set()


@pytest.mark.parametrize("repeat", [0.25, 1.0, 1.5, 3.0])
def test_copies_are_as_many_as_asked_for_on_average(repeat: float) -> None:
    copies = [num_copies(digest_of(text), repeat) for text in TEXTS]
    assert set(copies) <= {int(repeat), int(repeat) + 1}
    assert np.mean(copies) == pytest.approx(repeat, abs=0.03)


def keys(seed: int, digests: list[Digest], copies: list[int], ids: list[int] | None = None) -> list[int]:
    wide = np.array(digests, dtype=np.uint64).reshape(-1, 2)
    unique = None if ids is None else np.array(ids, dtype=np.uint64)
    return order_keys(seed, wide, np.array(copies), unique).tolist()


def test_keys_tell_seeds_copies_and_documents_apart() -> None:
    a, b = digest_of("a"), digest_of("b")
    assert keys(0, [a, a], [0, 0]) == keys(0, [a], [0]) * 2
    found = [*keys(0, [a, a, b], [0, 1, 0]), *keys(1, [a], [0]), *keys(0, [a, a], [0, 0], [5, 6])]
    assert len(set(found)) == 6


def test_keys_shuffle() -> None:
    order = np.argsort(keys(0, [digest_of(text) for text in TEXTS], [0] * len(TEXTS)))
    assert sorted(order.tolist()) == list(range(len(TEXTS)))
    assert (np.abs(np.diff(order)) == 1).mean() < 0.01
    assert abs(np.corrcoef(order, np.arange(len(TEXTS)))[0, 1]) < 0.1


places = st.tuples(st.integers(0, 2**20 - 1), st.integers(0, 2**20 - 1), st.integers(0, 2**24 - 1))


@given(places, places)
def test_ids_ascend_with_the_input(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    first, second = (int(document_ids(*place[:2], np.array([place[2]]))[0]) for place in (one, other))
    assert (first < second) == (one < other)
    assert (first == second) == (one == other)
