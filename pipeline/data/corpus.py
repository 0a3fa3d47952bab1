"""A corpus split as one array of rows, over its memory-mapped shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.format import TOKENIZER_NAME, Manifest, Shard, Split, read_manifest
from data_prep.tokenizing.directory import TokenizerDirectory, open_directory
from pipeline.errors import DataError

_PADDING = np.zeros(1, dtype=np.uint16)


@dataclass(frozen=True)
class Vocabulary:
    """What training needs to know of the corpus's tokenizer."""

    size: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    special_ids: tuple[int, ...]

    def ordinary_ids(self) -> npt.NDArray[np.int64]:
        """Ids of the tokens that are not special, ascending."""
        return np.setdiff1d(np.arange(self.size, dtype=np.int64), self.special_ids)


def read_vocabulary(corpus_dir: Path) -> Vocabulary:
    """Read the corpus's tokenizer directory; a DataError names a special token that is missing."""
    return vocabulary_of(open_directory(corpus_dir / TOKENIZER_NAME))


def vocabulary_of(tokenizer: TokenizerDirectory) -> Vocabulary:
    """What training needs to know of a tokenizer; a DataError names a special token that is missing."""
    ids = tokenizer.row_ids()
    return Vocabulary(
        size=ids.vocab_size,
        pad_id=ids.pad,
        cls_id=ids.cls,
        sep_id=ids.sep,
        mask_id=tokenizer.id_of("mask"),
        special_ids=tokenizer.special_ids,
    )


class CorpusRows(NamedTuple):
    """n rows of T positions.

    Attributes:
        input_ids: token ids, (n, T), int64.
        lengths: real tokens, (n,), int64.
        starts: first position of each position's document piece, (n, T), int32; 0 in padding.
        ends: the position after its last, (n, T), int32; 0 in padding.
    """

    input_ids: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]


def piece_borders(
    pieces: Sequence[npt.NDArray[np.uint16]], num_positions: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Where the document pieces of n rows begin and end, for each of T positions.

    Args:
        pieces: token counts of each row's pieces, n arrays; they sum to at most T.
        num_positions: T.

    Returns:
        `lengths`, `starts` and `ends` as in CorpusRows.
    """
    # A row's padding is one more piece, of a size not known yet: with it every row sums to T, and one pass
    # over the pieces of all rows, end to end, does for all.
    sizes = np.concatenate([part for row in pieces for part in (row, _PADDING)], dtype=np.int64)
    padding = np.cumsum([len(row) + 1 for row in pieces]) - 1
    tokens_before = np.cumsum(sizes)[padding]
    lengths = np.diff(tokens_before, prepend=0)
    sizes[padding] = num_positions - lengths

    starts = (np.cumsum(sizes) - sizes) % num_positions
    ends = starts + sizes
    starts[padding] = ends[padding] = 0
    shape = (len(pieces), num_positions)
    return (
        lengths,
        np.repeat(starts.astype(np.int32), sizes).reshape(shape),
        np.repeat(ends.astype(np.int32), sizes).reshape(shape),
    )


def rows_in_share(num_rows: int, share: float) -> int:
    """How many of a split's rows a share of them is, at least one where there is any."""
    return min(num_rows, max(1, round(num_rows * share)))


class CorpusSplit:
    """The rows of one split, numbered through its shards."""

    def __init__(
        self, corpus_dir: Path, split: Split, manifest: Manifest | None = None, share: float = 1.0
    ) -> None:
        """Map the split's shards; a DataError names a shard that is not what the manifest says.

        Rows lie in random order, so that the first `share` of them, at least one, is a sample.
        """
        manifest = manifest or read_manifest(corpus_dir)
        self.sequence_length = manifest.sequence_length
        self._shards: list[Shard] = []
        for info in manifest.shards_of(split):
            shard = Shard(corpus_dir / info.name, manifest.sequence_length)
            if shard.rows != info.rows:
                raise DataError(f"{shard.path}: {shard.rows} rows, its manifest says {info.rows}")
            self._shards.append(shard)
        self._first_rows = np.cumsum([0, *(shard.rows for shard in self._shards)])
        self.num_rows = rows_in_share(int(self._first_rows[-1]), share)

    def read(self, rows: npt.NDArray[np.int64]) -> CorpusRows:
        """The given rows (n,), at least one."""
        input_ids = np.empty((len(rows), self.sequence_length), dtype=np.int64)
        pieces: list[npt.NDArray[np.uint16]] = []
        shard_of_row = np.searchsorted(self._first_rows, rows, side="right") - 1
        rows_in_shard = rows - self._first_rows[shard_of_row]
        # Rows that are trained together lie anywhere, mostly in different record batches: nothing to gain
        # from grouping them, so what is done row by row is only what must be.
        for index, (shard, row) in enumerate(zip(shard_of_row.tolist(), rows_in_shard.tolist())):
            input_ids[index] = self._shards[shard].input_ids(row)
            pieces.append(self._shards[shard].segments(row))
        return CorpusRows(input_ids, *piece_borders(pieces, self.sequence_length))

    def token_counts(self, vocab_size: int, max_rows: int | None = None) -> npt.NDArray[np.int64]:
        """How often each id occurs in the first rows of the split, padding included, shape (vocab_size,)."""
        counts = np.zeros(vocab_size, dtype=np.int64)
        left = self.num_rows if max_rows is None else min(self.num_rows, max_rows)
        for batch in (batch for shard in self._shards for batch in shard.batches()):
            if left <= 0:
                break
            counts += np.bincount(batch[:left].ravel(), minlength=vocab_size)
            left -= len(batch)
        return counts
