"""Shards with rows that a test makes up, and what is in those that were made."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data_prep.blocks import read_blocks
from data_prep.format import DROPPED_NAME, PackedRows, ShardWriter, Split, read_manifest
from data_prep.packing import unpack

MadeRow = tuple[np.ndarray, Sequence[int]]


def write_rows(path: Path, sequence_length: int, dtype: type, rows: Iterable[MadeRow]) -> list[int]:
    """Write one block of (input_ids, segments), every piece a document of its own; the shard's blocks."""
    ids, segments = zip(*rows)
    flat = np.array([length for row in segments for length in row], dtype=np.int64)
    writer = ShardWriter(path, sequence_length, np.dtype(dtype))
    num_pieces = np.array([len(row) for row in segments], dtype=np.int64)
    packed = PackedRows(
        np.stack(ids).astype(dtype), num_pieces, flat, np.arange(len(flat)), np.zeros_like(flat)
    )
    writer.write(packed)
    writer.close()
    return writer.blocks


def shard_bytes(corpus: Path) -> dict[str, bytes]:
    """The files that must be the same however a corpus was made: all but the manifest and the tokenizer."""
    names = [*corpus.glob("*.arrow"), corpus / DROPPED_NAME]
    return {path.name: path.read_bytes() for path in sorted(names)}


def documents_in(corpus: Path, split: Split = "train") -> Iterator[list[int]]:
    """The split's documents as token ids, in the order in which they were packed; sep has the id 2."""
    manifest = read_manifest(corpus)
    for info in manifest.shards_of(split):
        for block in read_blocks(corpus / info.name, info):
            tokens, lengths = unpack(block, sep_id=2)
            yield from (piece.tolist() for piece in np.split(tokens, np.cumsum(lengths)[:-1]))


def texts_in(corpus: Path, split: Split = "train") -> list[str]:
    """The same as texts."""
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer" / "tokenizer.json"))
    return [tokenizer.decode(ids) for ids in documents_in(corpus, split)]
