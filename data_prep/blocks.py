"""A shard's blocks: rows that hold whole documents, read one block at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.errors import DataError
from data_prep.format import PackedRows, ShardInfo


def read_blocks(path: Path, info: ShardInfo) -> Iterator[PackedRows]:
    """The blocks of a shard, one in memory at a time; a DataError if it is not what the manifest says."""
    sizes = iter(info.blocks)
    wanted = next(sizes, 0)
    pending: list[pa.RecordBatch] = []
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                while batch.num_rows:
                    missing = wanted - sum(part.num_rows for part in pending)
                    pending.append(batch.slice(0, missing))
                    batch = batch.slice(missing)
                    if sum(part.num_rows for part in pending) == wanted:
                        yield _packed_rows(pending)
                        pending, wanted = [], next(sizes, 0)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: not a readable shard ({error}); check with 'verify'") from error
    if pending or wanted:
        raise DataError(f"{path}: its rows are not those of the manifest; check with 'verify'")


def _packed_rows(batches: list[pa.RecordBatch]) -> PackedRows:
    table = pa.Table.from_batches(batches).combine_chunks()
    ids, segments = table["input_ids"].chunk(0), table["segments"].chunk(0)
    documents, offsets = table["documents"].chunk(0), table["offsets"].chunk(0)
    return PackedRows(
        ids.flatten().to_numpy().reshape(len(ids), -1),
        np.diff(segments.offsets.to_numpy()).astype(np.int64),
        *(_ints(column) for column in (segments, documents, offsets)),
    )


def _ints(column: pa.ListArray) -> npt.NDArray[np.int64]:
    return column.flatten().to_numpy().astype(np.int64)
