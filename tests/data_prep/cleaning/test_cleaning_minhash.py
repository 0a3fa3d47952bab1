"""Signatures: a document's own tokens decide, and similar documents meet as often as the formula says."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning import minhash
from data_prep.cleaning.minhash import NUM_BANDS, band_hashes, batch_band_hashes

ROOT = Path(__file__).parents[3]
documents = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=40), min_size=1, max_size=12)


def batch(tokens: list[list[int]]) -> np.ndarray:
    flat = np.array([token for document in tokens for token in document], dtype=np.uint16)
    return batch_band_hashes(flat, np.cumsum([len(document) for document in tokens]))


def shingle_set(document: list[int]) -> set[tuple[int, ...]]:
    return {tuple(document[start : start + 5]) for start in range(max(len(document) - 4, 1))}


@given(tokens=documents, block=st.integers(1, 50))
@settings(max_examples=300, deadline=None)
def test_a_document_has_the_same_bands_alone_in_a_batch_and_in_any_blocks(
    tokens: list[list[int]], block: int
) -> None:
    alone = [band_hashes(np.array(document)) for document in tokens]
    assert (batch(tokens) == np.stack(alone)).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "_BLOCK_SHINGLES", block)
        assert (batch(tokens) == np.stack(alone)).all()


@given(tokens=documents)
@settings(max_examples=300, deadline=None)
def test_bands_are_equal_exactly_if_the_shingles_are(tokens: list[list[int]]) -> None:
    hashes = batch(tokens)
    for first, one in enumerate(tokens):
        for second, other in enumerate(tokens):
            same = shingle_set(one) == shingle_set(other)
            assert (hashes[first] == hashes[second]).all() == same


def test_the_numbers_never_change() -> None:
    """A corpus continued on another machine is compared with these hashes."""
    tokens = (np.arange(1000) * 7919 % 50_000).astype(np.uint16)
    assert band_hashes(tokens).dtype == np.uint64
    assert [f"{value:016x}" for value in band_hashes(tokens)[[0, 1, 13]]] == [
        "cbbca5adb2b0f05e",
        "00235a33012b6456",
        "7ac91c36811c5d7e",
    ]
    assert f"{band_hashes(np.array([1, 2, 3]))[0]:016x}" == "ca2814a83fa75224"


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_the_type_of_the_tokens_does_not_matter(dtype: type) -> None:
    tokens = np.arange(100) % 37
    assert (band_hashes(tokens.astype(dtype)) == band_hashes(tokens)).all()


def test_no_documents_have_no_bands() -> None:
    empty = np.array([], dtype=np.int64)
    assert batch_band_hashes(empty, empty).shape == (0, NUM_BANDS)


@pytest.mark.parametrize("num_shingles", [60, 600])
@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_similar_documents_meet_as_often_as_the_formula_says(similarity: float, num_shingles: int) -> None:
    """Two documents of n shingles with c in common: s = c / (2n - c)."""
    common = round(2 * num_shingles * similarity / (1 + similarity))
    similarity = common / (2 * num_shingles - common)
    num_pairs = 2000
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 30_000, (num_pairs, 2, num_shingles + 4), dtype=np.uint16)
    tokens[:, 1, : common + 4] = tokens[:, 0, : common + 4]
    ends = np.arange(1, 2 * num_pairs + 1) * (num_shingles + 4)
    hashes = batch_band_hashes(tokens.reshape(-1), ends).reshape(num_pairs, 2, NUM_BANDS)
    equal = hashes[:, 0] == hashes[:, 1]
    per_band = similarity**8
    at_all = 1 - (1 - per_band) ** NUM_BANDS
    assert equal.mean() == pytest.approx(per_band, abs=4 * (per_band / equal.size) ** 0.5)
    assert equal.any(axis=1).mean() == pytest.approx(
        at_all, abs=4 * (at_all * (1 - at_all) / num_pairs) ** 0.5
    )


def test_unrelated_documents_do_not_meet() -> None:
    generator = np.random.default_rng(1)
    tokens = generator.zipf(1.3, 4000 * 50) % 30_000
    hashes = batch_band_hashes(tokens, np.arange(1, 4001) * 50)
    for band in hashes.T:
        assert len(np.unique(band)) == 4000


def test_bands_are_never_taken_for_each_other() -> None:
    hashes = batch([[1], [2], [1, 2, 3, 4, 5, 6]])
    assert len(np.unique(hashes)) == hashes.size


def test_ten_million_tokens_take_little_memory() -> None:
    """Apart from the tokens themselves: a process of its own, whose peak is measured."""
    script = (
        "import resource, numpy as np\n"
        "from data_prep.cleaning.minhash import band_hashes\n"
        "tokens = np.arange(10_000_000, dtype=np.uint32)\n"
        "tokens *= np.uint32(2654435761)\n"
        "band_hashes(tokens[:100_000])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "band_hashes(tokens)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 20_000  # kilobytes


def test_a_million_tokens_per_second() -> None:
    """A tenth of what it does on a quiet machine."""
    tokens = np.random.default_rng(0).integers(0, 30_000, 1_000_000)
    started = time.process_time()
    batch_band_hashes(tokens, np.arange(500, 1_000_001, 500))
    assert time.process_time() - started < 1
