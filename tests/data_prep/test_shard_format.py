"""The shard files themselves: what is written is read back, by us, by pyarrow and by datasets."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest

from data_prep.blocks import read_blocks
from data_prep.errors import DataError
from data_prep.format import (
    ROWS_PER_BATCH,
    PackedRows,
    Shard,
    ShardInfo,
    ShardWriter,
    read_manifest,
    token_dtype,
)
from data_prep.packing import PieceIds, fill, place
from tests.shard_files import write_rows

T = 16


def written_shard(path: Path, num_rows: int, dtype: type) -> tuple[np.ndarray, list[list[int]]]:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, np.iinfo(dtype).max, (num_rows, T), endpoint=True, dtype=dtype)
    segments = [[3 + row % 5, 8] if row % 3 else [T] for row in range(num_rows)]
    write_rows(path, T, dtype, zip(ids, segments))
    return ids, segments


@pytest.mark.parametrize("blocks", [[5, 2000, 48, 1], [1024, 1024], [1023, 2]])
def test_blocks_share_record_batches(tmp_path: Path, blocks: list[int]) -> None:
    """Every batch but the last is full, wherever blocks end."""
    path = tmp_path / "rows.arrow"
    writer = ShardWriter(path, T, np.dtype(np.uint16))
    lengths = np.full(sum(blocks), T - 2, dtype=np.int64)
    tokens = np.arange(lengths.sum(), dtype=np.uint16)
    rows = fill(place(lengths, T, "document"), tokens, lengths, T, PieceIds(1, 2, 0))
    start = 0
    for size in blocks:
        part = slice(start, start + size)
        writer.write(PackedRows(*(column[part] for column in rows)))
        start += size
    writer.close()
    assert writer.blocks == blocks
    shard = Shard(path, T)
    assert all(len(batch) == ROWS_PER_BATCH for batch in shard.batches()[:-1])
    assert (np.concatenate(shard.batches()) == rows.input_ids).all()
    info = ShardInfo(name=path.name, split="train", rows=start, bytes=0, sha256="", blocks=blocks)
    found = list(read_blocks(path, info))
    assert [len(block.input_ids) for block in found] == blocks
    for name in PackedRows._fields:
        assert (
            np.concatenate([getattr(block, name) for block in found]).tolist() == getattr(rows, name).tolist()
        )
    with pytest.raises(DataError, match=r"its rows are not those of the manifest"):
        list(read_blocks(path, info.model_copy(update={"blocks": [*blocks, 1]})))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("num_rows", [1, ROWS_PER_BATCH, 2 * ROWS_PER_BATCH + 7])
def test_rows_are_read_back(tmp_path: Path, num_rows: int, dtype: type) -> None:
    path = tmp_path / "rows.arrow"
    ids, segments = written_shard(path, num_rows, dtype)
    shard = Shard(path, T)
    assert shard.rows == num_rows
    for row in {0, num_rows // 2, min(ROWS_PER_BATCH, num_rows - 1), num_rows - 1}:
        assert shard.input_ids(row).dtype == dtype
        assert shard.input_ids(row).tolist() == ids[row].tolist()
        assert shard.segments(row).tolist() == segments[row]


def test_a_row_is_a_view_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    written_shard(path, 5, np.uint16)
    shard = Shard(path, T)
    assert np.shares_memory(shard.input_ids(2), shard.input_ids(2))
    assert not shard.input_ids(2).flags.writeable


def test_datasets_and_pyarrow_open_a_shard(made_corpus: Path) -> None:
    info = read_manifest(made_corpus).shards_of("train")[1]
    path = made_corpus / info.name
    shard = Shard(path, 64)
    dataset = datasets.Dataset.from_file(str(path)).with_format("numpy")
    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    assert len(dataset) == table.num_rows == shard.rows == info.rows > ROWS_PER_BATCH
    for row in (0, ROWS_PER_BATCH, info.rows - 1):
        assert dataset[row]["input_ids"].tolist() == shard.input_ids(row).tolist()
        assert dataset[row]["segments"].tolist() == shard.segments(row).tolist()


def test_damaged_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    written_shard(path, 100, np.uint16)
    with pytest.raises(DataError, match=r"rows of 16 tokens, expected 32"):
        Shard(path, 32)
    with pytest.raises(DataError, match=r"gone\.arrow.*missing.*verify"):
        Shard(tmp_path / "gone.arrow", T)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"rows\.arrow.*not a readable shard"):
        Shard(path, T)


def test_sixteen_bits_are_used_as_long_as_they_suffice() -> None:
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.uint32
