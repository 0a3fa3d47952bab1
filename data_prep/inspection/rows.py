"""The rows of a corpus split by number, and what a sample of them tells."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from data_prep.format import Manifest, Shard, Split


class SplitRows:
    """Rows through all shards of a split; a shard is opened when first needed."""

    def __init__(self, corpus_dir: Path, manifest: Manifest, split: Split) -> None:
        """The rows of `split`."""
        self._paths = [corpus_dir / shard.name for shard in manifest.shards_of(split)]
        self._ends = np.cumsum([shard.rows for shard in manifest.shards_of(split)])
        self._length = manifest.sequence_length
        self._shards: dict[int, Shard] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def pieces(self, row: int) -> Iterator[npt.NDArray]:
        """The row's document pieces, special tokens included; padding is left out."""
        index = int(np.searchsorted(self._ends, row, side="right"))
        if index not in self._shards:
            self._shards[index] = Shard(self._paths[index], self._length)
        shard = self._shards[index]
        row -= int(self._ends[index]) - shard.rows
        ids = shard.input_ids(row)
        start = 0
        for length in shard.segments(row).tolist():
            yield ids[start : start + length]
            start += length


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
    rows: SplitRows, chosen: npt.NDArray, vocab_size: int, tokenizer: Tokenizer, max_decoded: int
) -> Sample:
    """Count what the `chosen` rows hold; the text of the first `max_decoded` is looked at too."""
    lengths: list[int] = []
    counts = np.zeros(vocab_size, dtype=np.int64)
    words = word_bytes = word_tokens = 0
    for number, row in enumerate(chosen.tolist()):
        for piece in rows.pieces(row):
            lengths.append(len(piece))
            counts += np.bincount(piece, minlength=vocab_size)
            if number < max_decoded:
                text = tokenizer.decode(piece.tolist(), skip_special_tokens=True)
                words += len(text.split())
                word_bytes += len(text.encode())
                word_tokens += len(piece) - 2
    unknown_ids = {tokenizer.token_to_id(name) for name in ("[UNK]", "<unk>")} - {None}
    unknown = sum(int(counts[unknown_id]) for unknown_id in unknown_ids)
    return Sample(len(chosen), np.array(lengths), counts, words, word_bytes, word_tokens, unknown)
