"""Parquet and Arrow files, batch by batch: the text columns only, checked before anyone looks at them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.inputs.compression import DECOMPRESSION_ERRORS, is_compressed, read_chunks

# What pyarrow raises for a damaged file.
TABLE_ERRORS = (pa.ArrowException, *DECOMPRESSION_ERRORS, MemoryError, OverflowError)

_BATCH_ROWS = 1024
_BUFFER_BYTES = 1 << 20
_FILE_FORM = b"ARROW1"
_OLD_FEATHER = b"FEA1"


class TextBatch(NamedTuple):
    """Some rows of a table.

    Attributes:
        batch: The text columns that the table has, texts as binary, so that a byte that is not UTF-8
            costs one row; other types as they are.
        first_row: The number of the first row, from 1.
        columns: The names of all columns of the table.
        share: How much of the file, or of its part, has been read after this batch.
    """

    batch: pa.RecordBatch
    first_row: int
    columns: tuple[str, ...]
    share: float


def row_group_weights(path: Path) -> list[int]:
    """How large each row group of a Parquet file is beside the others; TABLE_ERRORS if it is not one."""
    # The stored sizes of the columns would say more, but asking for a column of a damaged footer ends the
    # process: pyarrow lets the C++ exception through.
    metadata = pq.read_metadata(path)
    return [max(1, metadata.row_group(index).total_byte_size) for index in range(metadata.num_row_groups)]


def read_parquet(
    path: Path, fields: tuple[str, ...], start: int, end: int | None, batch_bytes: int
) -> Iterator[TextBatch]:
    """Batches of the row groups from `start` to before `end` (None: the last), in order."""
    with (
        _plain_file(path) as plain,
        pa.OSFile(str(plain)) as opened,
        pq.ParquetFile(opened, buffer_size=_BUFFER_BYTES, page_checksum_verification=True) as file,
    ):
        columns = tuple(file.schema_arrow.names)
        texts = [name for name in fields if name in columns]
        end = file.num_row_groups if end is None else end
        row = 1 + sum(file.metadata.row_group(index).num_rows for index in range(start))
        for index in range(start, end):
            share = (index - start) / (end - start)
            batches = file.iter_batches(_BATCH_ROWS, row_groups=[index], columns=texts, use_threads=False)
            for batch in batches:
                for rows in _text_batches(batch, texts, batch_bytes):
                    yield TextBatch(rows, row, columns, share)
                    row += rows.num_rows


def read_arrow(path: Path, fields: tuple[str, ...], batch_bytes: int) -> Iterator[TextBatch]:
    """Batches of an Arrow IPC file of either form, in order."""
    with _plain_file(path) as plain, pa.memory_map(str(plain)) as mapped:
        magic = mapped.read(len(_FILE_FORM))
        mapped.seek(0)
        if magic.startswith(_OLD_FEATHER):
            raise ValueError(
                "it has the form of the first Feather version; write it again with a newer pandas"
            )
        row = 1
        for batch, share in _arrow_batches(mapped, file_form=magic == _FILE_FORM):
            columns = tuple(batch.schema.names)
            texts = [name for name in fields if name in columns]
            for rows in _text_batches(batch, texts, batch_bytes):
                yield TextBatch(rows, row, columns, share)
                row += rows.num_rows


def _arrow_batches(mapped: pa.MemoryMappedFile, file_form: bool) -> Iterator[tuple[pa.RecordBatch, float]]:
    """Batches, and how much of the file lies before the end of each."""
    # Mapped, a batch costs no memory, however large it is or claims to be.
    if file_form:
        reader = pa.ipc.open_file(mapped)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index), (index + 1) / reader.num_record_batches
    else:
        for batch in pa.ipc.open_stream(mapped):
            yield batch, mapped.tell() / mapped.size()


def _text_batches(batch: pa.RecordBatch, texts: list[str], batch_bytes: int) -> Iterator[pa.RecordBatch]:
    """The text columns of a batch, checked, in slices of about `batch_bytes`."""
    # Without a text column, one of nulls still tells the number of rows.
    arrays = [_checked(batch.column(batch.schema.names.index(name))) for name in texts]
    chosen = pa.record_batch(arrays or [pa.nulls(batch.num_rows)], names=texts or [""])
    num_slices = max(1, -(-chosen.nbytes // batch_bytes), -(-chosen.num_rows // _BATCH_ROWS))
    rows = max(1, -(-chosen.num_rows // num_slices))
    for start in range(0, chosen.num_rows, rows):
        yield chosen.slice(start, rows)


def _checked(column: pa.Array) -> pa.Array:
    """The column with texts as large_binary; an ArrowInvalid if following its offsets would crash."""
    column.validate()
    if pa.types.is_dictionary(column.type) and is_text(column.type.value_type):
        indices, values = column.indices, _checked(column.dictionary)
        column = pa.DictionaryArray.from_arrays(indices, values, safe=True)
        column.validate(full=True)
        return column.dictionary_decode()
    if is_text(column.type):
        # Full validation of a string column would refuse all of it for one byte that is not UTF-8.
        column = column.view(_BINARY.get(column.type, column.type))
        column.validate(full=True)
        return column.cast(pa.large_binary())
    column.validate(full=True)
    return column


_BINARY = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}
_TEXT_TYPES = {*_BINARY, *_BINARY.values()}


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are text; older Parquet writers call it binary."""
    return kind in _TEXT_TYPES


@contextmanager
def _plain_file(path: Path) -> Iterator[Path]:
    """The file itself, or a decompressed copy that has no name and vanishes when it is closed."""
    if not is_compressed(path):
        yield path
        return
    with tempfile.TemporaryFile(buffering=0) as copy:
        with path.open("rb") as file:
            for chunk in read_chunks(file, path):
                _write(copy, chunk)
        yield Path(f"/dev/fd/{copy.fileno()}")


def _write(copy: BinaryIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[copy.write(rest) :]
    except OSError as error:
        # Not the input's fault, which would be counted as damage and left out.
        raise DataError(
            f"{tempfile.gettempdir()}: cannot hold a decompressed copy of a table: {error.strerror}; set "
            "TMPDIR to a directory with more space"
        ) from error
