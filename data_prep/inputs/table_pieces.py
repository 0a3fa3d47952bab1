"""Pieces of Parquet and Arrow files: the text columns of some rows, as an Arrow IPC stream."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.inputs.formats import file_format
from data_prep.inputs.pieces import Piece, damage_piece, too_large
from data_prep.inputs.segments import Stretch
from data_prep.inputs.tables import TABLE_ERRORS, TextBatch, is_text, read_arrow, read_parquet


def read_table_pieces(
    stretch: Stretch, text_fields: tuple[str, ...], part_bytes: int, max_record_bytes: int
) -> Iterator[tuple[Piece, float]]:
    """The pieces of a stretch, each with the share of the stretch that has been read after it.

    Raises:
        TABLE_ERRORS: The file cannot be read any further.
    """
    path = Path(stretch.path)
    group = _Group(path)
    share = 0.0
    for item in _until_broken(_batches(path, stretch, text_fields, part_bytes)):
        if isinstance(item, Exception):
            yield from ((piece, share) for piece in group.flush())
            raise item
        for rows, too_many in _split(item, max_record_bytes):
            if too_many or not group.fits(rows, part_bytes):
                yield from ((piece, share) for piece in group.flush())
            share = item.share
            if too_many:
                where = f"{path}, row {rows.first_row}"
                yield damage_piece(path, "record too large", where, too_large(max_record_bytes)), share
            else:
                group.add(rows)
    yield from ((piece, share) for piece in group.flush())


class _Group:
    """Batches of consecutive rows that will be one piece."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._batches: list[TextBatch] = []
        self._num_bytes = 0

    def fits(self, rows: TextBatch, part_bytes: int) -> bool:
        return self._num_bytes + rows.batch.nbytes <= part_bytes

    def add(self, rows: TextBatch) -> None:
        self._batches.append(rows)
        self._num_bytes += rows.batch.nbytes

    def flush(self) -> list[Piece]:
        """The piece, if there is anything in it."""
        if not self._batches:
            return []
        first = self._batches[0]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, first.batch.schema) as stream:
            for rows in self._batches:
                stream.write_batch(rows.batch)
        self._batches, self._num_bytes = [], 0
        data = sink.getvalue().to_pybytes()
        return [Piece(str(self._path), "table", data, first.first_row, header=first.columns)]


def _batches(
    path: Path, stretch: Stretch, text_fields: tuple[str, ...], part_bytes: int
) -> Iterator[TextBatch]:
    if file_format(path) == "parquet":
        return read_parquet(path, text_fields, stretch.start, stretch.end, part_bytes)
    return read_arrow(path, text_fields, part_bytes)


def _until_broken(batches: Iterator[TextBatch]) -> Iterator[TextBatch | Exception]:
    """The batches, and last the error that ends them, if one does: what came before must not be lost."""
    try:
        yield from batches
    except TABLE_ERRORS as error:
        yield error


def _split(rows: TextBatch, max_record_bytes: int) -> Iterator[tuple[TextBatch, bool]]:
    """Runs of rows within the limit, and each row that is above it alone, with True."""
    if rows.batch.nbytes <= max_record_bytes:
        yield rows, False
        return
    start = 0
    for index in [*_too_large_rows(rows.batch, max_record_bytes), rows.batch.num_rows]:
        for first, end, is_too_large in ((start, index, False), (index, index + 1, True)):
            part = rows.batch.slice(first, end - first)
            if part.num_rows:
                yield rows._replace(batch=part, first_row=rows.first_row + first), is_too_large
        start = index + 1


def _too_large_rows(batch: pa.RecordBatch, max_record_bytes: int) -> list[int]:
    total = pa.array([0] * batch.num_rows, pa.int64())
    for column in batch.columns:
        if is_text(column.type):
            lengths = pc.fill_null(pc.binary_length(column), 0).cast(pa.int64())
            total = pc.add(total, lengths)
    return pc.indices_nonzero(pc.greater(total, max_record_bytes)).to_pylist()
