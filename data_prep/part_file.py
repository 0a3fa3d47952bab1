"""The tokenized documents of one part of the input, sorted so that each bucket is one read.

A temporary file between two stages. Parts are cut from the input, buckets from the space of a random key:
whoever packs bucket b reads one stretch of every part file. Layout, all little-endian:

    tokens      of the kept documents, bucket after bucket
    documents   DOCUMENT records, in the same order
    signatures  SIGNATURE records by range of their hash (none unless near-duplicates are looked for)
    index       where each bucket's tokens and documents and each range's signatures begin, uint64
    report      JSON
    footer      _FOOTER: where the sections begin

A file under its final name is complete: it is written under another, flushed to disk, then renamed.
"""

import io
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.errors import DataError
from data_prep.files import replacing
from data_prep.ragged import each

# `key` orders the documents of a corpus; `digest` is of the text; `id` says where it was read. A signature's
# `text` is the first half of the digest: equal texts are one to whoever looks for near-duplicates.
DOCUMENT = np.dtype(
    [
        ("key", "<u8"),
        ("digest", "<u8", 2),
        ("id", "<u8"),
        ("source", "<u2"),
        ("copy", "<u2"),
        ("length", "<u4"),
    ]
)
SIGNATURE = np.dtype([("hash", "<u8"), ("text", "<u8")])

_MAGIC = b"LODEPART"
_FOOTER = struct.Struct("<6Q8s")  # documents, signatures, index, report, buckets, ranges, magic


class Documents(NamedTuple):
    """Documents with their tokens.

    Attributes:
        records: DOCUMENT records, (D,).
        tokens: end to end, (sum of the records' lengths,).
    """

    records: npt.NDArray
    tokens: npt.NDArray


def write_part(
    path: Path,
    records: npt.NDArray,
    starts: npt.NDArray[np.int64],
    tokens: npt.NDArray,
    buckets: npt.NDArray[np.int64],
    num_buckets: int,
    signatures: npt.NDArray,
    num_ranges: int,
    report: bytes,
) -> None:
    """Write a part file, all of it or nothing.

    Args:
        path: Its final name.
        records: DOCUMENT records, (D,), in any order.
        starts: Where the tokens of each begin in `tokens`, (D,); copies of a document share theirs.
        tokens: Of all documents.
        buckets: The bucket of each document, (D,).
        num_buckets: Buckets in all.
        signatures: SIGNATURE records, in any order.
        num_ranges: Ranges of signature hashes.
        report: JSON that `PartFile.report` gives back.
    """
    order = np.argsort(buckets, kind="stable")
    lengths = records["length"].astype(np.int64)
    signatures = signatures[np.argsort(signatures["hash"], kind="stable")]
    per_bucket = np.bincount(buckets, minlength=num_buckets)
    tokens_per_bucket = np.bincount(buckets, weights=lengths, minlength=num_buckets).astype(np.int64)
    per_range = np.bincount(range_of(signatures["hash"], num_ranges), minlength=num_ranges)

    with replacing(path) as partial, partial.open("wb") as file:
        for start, length in each(starts[order], lengths[order]):
            file.write(tokens[start : start + length].data)
        sections = [file.tell()]
        for content in (
            records[order].tobytes(),
            signatures.tobytes(),
            b"".join(_begins(counts) for counts in (tokens_per_bucket, per_bucket, per_range)),
            report,
        ):
            file.write(content)
            sections.append(file.tell())
        file.write(_FOOTER.pack(*sections[:4], num_buckets, num_ranges, _MAGIC))


class PartFile:
    """Reads stretches of a part file, and never more than was asked for."""

    def __init__(self, path: Path, token_dtype: np.dtype) -> None:
        """Open `path`, a complete part file with tokens of this type."""
        self._path = path
        self._dtype = token_dtype
        self._file = path.open("rb", buffering=0)
        size = self._file.seek(0, io.SEEK_END)
        footer = self._read(max(size - _FOOTER.size, 0), _FOOTER.size)
        if size < _FOOTER.size or not footer.endswith(_MAGIC):
            raise DataError(f"{path}: not a finished part; delete it and start the same command again")
        (*self._sections, self._num_buckets, self._num_ranges, _) = _FOOTER.unpack(footer)
        self._report_end = size - _FOOTER.size

    def __enter__(self) -> "PartFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def report(self) -> bytes:
        """The JSON given to `write_part`."""
        return self._read(self._sections[3], self._report_end - self._sections[3])

    def documents(self, bucket: int) -> Documents:
        """The documents of one bucket."""
        first_token, end_token = self._bounds(bucket)
        first, end = self._bounds(self._num_buckets + 1 + bucket)
        tokens = self._array(0, self._dtype, first_token, end_token)
        return Documents(self._array(self._sections[0], DOCUMENT, first, end), tokens)

    def signatures(self, number: int) -> npt.NDArray:
        """The SIGNATURE records of one range."""
        first, end = self._bounds(2 * (self._num_buckets + 1) + number)
        return self._array(self._sections[1], SIGNATURE, first, end)

    def _bounds(self, entry: int) -> tuple[int, int]:
        first, end = struct.unpack("<2Q", self._read(self._sections[2] + 8 * entry, 16))
        return first, end

    def _array(self, section: int, dtype: np.dtype, first: int, end: int) -> npt.NDArray:
        size = dtype.itemsize
        return np.frombuffer(self._read(section + first * size, (end - first) * size), dtype)

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        content = self._file.read(size)
        while len(content) < size:
            more = self._file.read(size - len(content))
            if not more:
                raise DataError(f"{self._path}: cut short; delete it and start the same command again")
            content += more
        return content


def bucket_of(keys: npt.NDArray[np.uint64], num_buckets: int) -> npt.NDArray[np.int64]:
    """Buckets are equal ranges of the key, so that buckets in order hold keys in order."""
    return ((keys >> np.uint64(32)) * np.uint64(num_buckets) >> np.uint64(32)).astype(np.int64)


range_of = bucket_of  # of a signature's hash


def _begins(counts: npt.NDArray) -> bytes:
    return np.concatenate([[0], np.cumsum(counts)]).astype("<u8").tobytes()
