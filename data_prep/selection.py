"""What becomes of a document that is kept: its split, its copies, its place in the shuffled corpus.

All of it is a function of the text alone (and of the seed): the same text lands in the same split in every
corpus, and documents can be brought into one global random order by whoever holds some of them.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.format import Split
from data_prep.hashing import UInt64s, fold

_DIGEST_BYTES = 16
_HASH_RANGE = 1 << 64
_SAMPLE_STREAM, _ORDER_STREAM = 0x73616D70, 0x6F726465  # keep uses of the same digest apart


class Digest(NamedTuple):
    """128 bits of a text's BLAKE2b: texts with equal digests are taken for equal."""

    high: int
    low: int


def digest_of(text: str) -> Digest:
    """The digest of a text."""
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()
    return Digest(int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big"))


def split_of(digest: Digest, valid_fraction: float) -> Split:
    """Held out if the digest lies in the lowest `valid_fraction` of its range."""
    return "valid" if digest.high < int(valid_fraction * _HASH_RANGE) else "train"


def num_copies(digest: Digest, repeat: float) -> int:
    """How often a document of a source stands in the corpus.

    `repeat` 3 gives three copies, 0.25 one for a quarter of the documents, 1.5 two for half of them; which
    ones is drawn from the digest.
    """
    whole = int(repeat)
    if repeat == whole:
        return whole
    draw = int(fold(_SAMPLE_STREAM, digest.high, digest.low)[0]) / _HASH_RANGE
    return whole + (draw < repeat - whole)


def order_keys(seed: int, digests: UInt64s, copies: npt.NDArray, ids: UInt64s | None) -> UInt64s:
    """The keys that sort documents into a random order, (n,).

    Args:
        seed: Another one gives another order.
        digests: (n, 2).
        copies: Number of each document among its copies, (n,).
        ids: Given if equal texts are to be kept apart, (n,); without, their keys are equal too.
    """
    keys = fold(_ORDER_STREAM, seed, digests[:, 0], digests[:, 1], copies)
    return keys if ids is None else fold(keys, ids)


def document_ids(segment: int, part: int, indices: npt.NDArray) -> UInt64s:
    """Where documents were read, as numbers that ascend in the order of the inputs, (n,).

    An index is below 2^24: a part has at most 8 MB, or a single record.
    """
    return np.uint64(segment << 44 | part << 24) + indices.astype(np.uint64)


MAX_SEGMENTS, MAX_PARTS = 1 << 20, 1 << 20  # per preparation, and per segment
