"""The rows of a corpus split by number, and what a sample of them tells."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.errors import DataError, UsageError
from data_prep.format import Manifest, Shard, Split, TokenIds
from data_prep.tokenizing.directory import TokenizerDirectory


class Piece(NamedTuple):
    """A part of a document, or all of it, as it stands in a row.

    Attributes:
        ids: token ids, cls and sep included, (n,).
        document: number of its document within the block of rows.
        offset: how many of the document's tokens stand in earlier pieces.
    """

    ids: TokenIds
    document: int
    offset: int


class Place(NamedTuple):
    """Where a row lies: in which shard, the how many-th there, and in which of the shard's blocks."""

    shard: str
    row: int
    block: int


class SplitRows:
    """Rows through all shards of a split, numbered as training does; a shard is opened when first needed."""

    def __init__(self, corpus_dir: Path, manifest: Manifest, split: Split) -> None:
        """The rows of `split`; a UsageError if it has none."""
        self._infos = manifest.shards_of(split)
        self._first_rows = np.cumsum([0, *(info.rows for info in self._infos)])
        self._directory = corpus_dir
        self._length = manifest.sequence_length
        self._shards: dict[int, Shard] = {}
        if not len(self):
            other = next((name for name, info in manifest.splits.items() if info.rows), "none")
            raise UsageError(f"--split {split}: {corpus_dir} has no such rows; splits with rows: {other}")

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def token_pieces(self, row: int) -> Iterator[npt.NDArray]:
        """Token ids of the row's document pieces, special tokens included; padding is left out."""
        index, row = self._find(row)
        shard = self._shard(index)
        ids = shard.input_ids(row)
        start = 0
        for length in shard.segments(row).tolist():
            yield ids[start : start + length]
            start += length

    def pieces(self, row: int) -> list[Piece]:
        """The row's document pieces, and which documents they are from."""
        index, row_in_shard = self._find(row)
        with pa.memory_map(str(self._shard(index).path)) as file:
            table = pa.ipc.open_stream(file).read_all().slice(row_in_shard, 1)
            documents, offsets = (table[name][0].as_py() for name in ("documents", "offsets"))
        return [Piece(*piece) for piece in zip(self.token_pieces(row), documents, offsets)]

    def place(self, row: int) -> Place:
        """Where a row lies."""
        index, row = self._find(row)
        block_ends = np.cumsum(self._infos[index].blocks)
        return Place(self._infos[index].name, row, int(np.searchsorted(block_ends, row, side="right")))

    def _find(self, row: int) -> tuple[int, int]:
        """Number of the row's shard, and the row's number in it."""
        index = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return index, row - int(self._first_rows[index])

    def _shard(self, index: int) -> Shard:
        if index not in self._shards:
            info = self._infos[index]
            shard = Shard(self._directory / info.name, self._length)
            if shard.rows != info.rows:
                raise DataError(f"{shard.path}: {shard.rows} rows, its manifest says {info.rows}")
            self._shards[index] = shard
        return self._shards[index]


class Sample(NamedTuple):
    """What some rows hold.

    Attributes:
        num_rows: rows looked at.
        piece_lengths: tokens per document piece, (P,).
        counts: how often each token id occurs, (vocab_size,).
        words: words, as split by white space, in the text of a part of the rows.
        word_bytes: UTF-8 bytes of that text.
        word_tokens: tokens of that text.
        unknown: those of them that are the unknown token.
    """

    num_rows: int
    piece_lengths: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    words: int
    word_bytes: int
    word_tokens: int
    unknown: int


def look_at(
    rows: SplitRows, chosen: npt.NDArray, vocab_size: int, tokenizer: TokenizerDirectory, max_decoded: int
) -> Sample:
    """Count what the `chosen` rows hold; the text of the first `max_decoded` is looked at too."""
    lengths: list[int] = []
    counts = np.zeros(vocab_size, dtype=np.int64)
    words = word_bytes = word_tokens = 0
    for number, row in enumerate(chosen.tolist()):
        for piece in rows.token_pieces(row):
            lengths.append(len(piece))
            counts += np.bincount(piece, minlength=vocab_size)
            if number < max_decoded:
                text = tokenizer.tokenizer.decode(piece.tolist(), skip_special_tokens=True)
                words += len(text.split())
                word_bytes += len(text.encode())
                word_tokens += len(piece) - 2
    unknown = int(counts[tokenizer.id_of("unk")]) if "unk" in tokenizer.special_tokens else 0
    return Sample(len(chosen), np.array(lengths), counts, words, word_bytes, word_tokens, unknown)
