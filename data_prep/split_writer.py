"""One split of a corpus on its way to disk: rows into shards, then the shards' final names."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_prep.files import sha256_file
from data_prep.format import ShardInfo, ShardWriter, Split, shard_name
from data_prep.packing import Row


class SplitWriter:
    """Writes rows to shards of `shard_rows` rows in a working directory.

    How many shards there will be is part of their names and known only at the end, so `publish` gives
    them their names.
    """

    def __init__(self, split: Split, folder: Path, length: int, dtype: np.dtype, shard_rows: int) -> None:
        """Shards of `split` in `folder`, rows of `length` tokens."""
        self.rows = 0
        self.tokens = 0
        self._split: Split = split
        self._folder = folder
        self._length = length
        self._dtype = dtype
        self._shard_rows = shard_rows
        self._open: ShardWriter | None = None
        self._finished: list[ShardWriter] = []

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows, beginning a new shard whenever one is full."""
        for row in rows:
            if self._open is None:
                path = self._folder / f"{self._split}-{len(self._finished):05d}.arrow"
                self._open = ShardWriter(path, self._length, self._dtype)
            self._open.add(row.input_ids, row.segments)
            self.rows += 1
            self.tokens += sum(row.segments)
            if self._open.rows == self._shard_rows:
                self._close_shard()

    def close(self) -> None:
        """Make every shard complete and durable in the working directory."""
        self._close_shard()

    def publish(self, corpus_dir: Path) -> list[ShardInfo]:
        """Move the closed shards into the corpus under their final names."""
        count = len(self._finished)
        infos = []
        for index, writer in enumerate(self._finished):
            path = corpus_dir / shard_name(self._split, index, count)
            writer.path.replace(path)
            infos.append(
                ShardInfo(
                    name=path.name,
                    split=self._split,
                    rows=writer.rows,
                    bytes=path.stat().st_size,
                    sha256=sha256_file(path),
                )
            )
        return infos

    def _close_shard(self) -> None:
        if self._open is not None:
            self._open.close()
            self._finished.append(self._open)
            self._open = None
