"""Signatures by which near duplicates are found: MinHash over token ids, folded into bands.

Two documents whose sets of shingles, runs of five tokens, have the Jaccard similarity s agree in each of
the 112 min-hashes with probability s (Broder 1997). The min-hashes form 14 bands of 8, and documents that
agree in a whole band count as near duplicates: with probability 1 - (1 - s^8)^14, which is 0.05 at s = 0.5,
0.56 at 0.7, 0.92 at 0.8 and 1.00 at 0.9. These are FineWeb's numbers (Penedo et al. 2024), but FineWeb's
shingles are of words, for which one must know the language.
"""

import numpy as np
import numpy.typing as npt

from data_prep.hashing import UInt64s, fold, mix

NUM_BANDS = 14
_ROWS_PER_BAND = 8
_NUM_HASHES = NUM_BANDS * _ROWS_PER_BAND
_SHINGLE_TOKENS = 5
_SEED = 0x6C6F646573746172
# Multiplication by an odd number permutes the 64-bit integers; of well mixed ones it leaves the smallest
# as random as another mix would, for a fifth of the time.
_MULTIPLIERS = fold(_SEED, np.arange(_NUM_HASHES)) | np.uint64(1)
_ROLLING_FACTOR = np.uint64(0x2545F4914F6CDD1D)

# Shingles hashed at a time: few enough for the second-level cache. The result does not depend on it.
_BLOCK_SHINGLES = 1 << 14


def band_hashes(tokens: npt.NDArray) -> UInt64s:
    """The bands of one document of n > 0 token ids, shape (14,)."""
    return batch_band_hashes(tokens, np.array([len(tokens)]))[0]


def batch_band_hashes(tokens: npt.NDArray, ends: npt.NDArray) -> UInt64s:
    """The bands of d documents, shape (d, 14); a document's depend on its own tokens alone.

    Documents shorter than a shingle are one shingle. Equal hashes of different bands mean nothing, and
    cannot be taken for each other: the number of the band is part of its hash.

    Args:
        tokens: The token ids of all documents end to end, shape (n,), of any integer type.
        ends: Where each document's tokens end, rising, shape (d,).
    """
    ends = ends.astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    assert (starts < ends).all(), "a document without tokens has no signature"
    shingle_ends = np.cumsum(np.maximum(ends - starts - (_SHINGLE_TOKENS - 1), 1))
    signatures = np.full((_NUM_HASHES, len(ends)), np.iinfo(np.uint64).max, dtype=np.uint64)
    num_shingles = int(shingle_ends[-1]) if len(ends) else 0
    for begin in range(0, num_shingles, _BLOCK_SHINGLES):
        end = min(begin + _BLOCK_SHINGLES, num_shingles)
        first, last = np.searchsorted(shingle_ends, [begin, end - 1], side="right")
        documents = slice(first, last + 1)
        # Where, within the block, the shingles of each of its documents begin and end.
        stops = np.minimum(shingle_ends[documents], end) - begin
        begins = np.concatenate([[0], stops[:-1]])
        # A shingle's place among the shingles -> the place of its first token.
        before = shingle_ends[documents.start - 1] if documents.start else 0
        skipped = starts[documents] - np.concatenate([[before], shingle_ends[documents][:-1]])
        owners = np.repeat(np.arange(first, last + 1), stops - begins)
        positions = np.arange(begin, end) + skipped[owners - first]
        hashes = _shingle_hashes(tokens, positions, ends[owners])
        _lower(signatures[:, documents], hashes, begins)
    by_band = signatures.T.reshape(len(ends), NUM_BANDS, _ROWS_PER_BAND)
    return fold(np.arange(NUM_BANDS), *np.moveaxis(by_band, 2, 0))


def _shingle_hashes(tokens: npt.NDArray, positions: npt.NDArray, ends: npt.NDArray) -> UInt64s:
    """A hash of the tokens at each position and the four behind it, as far as the document goes."""
    origin = positions[0]
    needed = tokens[origin : positions[-1] + _SHINGLE_TOKENS]
    # One more hash, 0 for "no token here", is read in place of those that lie behind the document.
    token_hashes = np.append(fold(_SEED, needed), np.uint64(0))
    hashes = np.zeros(len(positions), dtype=np.uint64)
    for offset in range(_SHINGLE_TOKENS):
        places = np.where(positions + offset < ends, positions + (offset - origin), len(needed))
        hashes = hashes * _ROLLING_FACTOR + token_hashes[places]
    return mix(hashes)


def _lower(signatures: UInt64s, hashes: UInt64s, begins: npt.NDArray) -> None:
    """Take the shingles of a block into account: `signatures`, shape (112, documents in the block)."""
    permuted = np.empty_like(hashes)
    for row, multiplier in zip(signatures, _MULTIPLIERS):
        np.multiply(hashes, multiplier, out=permuted)
        np.minimum(row, np.minimum.reduceat(permuted, begins), out=row)
