"""Shards with rows that a test makes up."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data_prep.format import PackedRows, ShardWriter

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
