"""From a piece of a Parquet or Arrow file to its documents; this runs in worker processes."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from data_prep.inputs.damage import Damage, damage, not_utf8
from data_prep.inputs.pieces import Piece
from data_prep.inputs.sources import Source
from data_prep.inputs.tables import is_text
from data_prep.inputs.text_fields import DamagedRecord, join_fields, no_text_field, not_a_string


def table_records(piece: Piece, source: Source) -> Iterator[str | Damage]:
    """Every row of the piece, in order: the text of a document, or why there is none."""
    row = piece.first
    for batch in pa.ipc.open_stream(piece.data):
        columns = {name: _values(batch, name) for name in source.text_fields if name in batch.schema.names}
        for index in range(batch.num_rows):
            try:
                if not columns:
                    raise no_text_field(source.text_fields, piece.header)
                yield _row_text({name: values[index] for name, values in columns.items()}, source)
            except UnicodeDecodeError as error:
                yield damage("not UTF-8", f"{piece.path}, row {row}", not_utf8(error))
            except DamagedRecord as error:
                yield damage(error.reason, f"{piece.path}, row {row}", error)
            row += 1


def _row_text(values: dict[str, Any], source: Source) -> str:
    texts = {}
    for name, value in values.items():
        if isinstance(value, pa.DataType):
            raise not_a_string(name, str(value))
        texts[name] = None if value is None else value.decode()
    return join_fields(texts, source.text_fields)


def _values(batch: pa.RecordBatch, name: str) -> list[bytes | pa.DataType | None]:
    """A column's texts, undecoded; of another type than text, that type wherever there is a value."""
    column = batch.column(name)
    if is_text(column.type):
        return column.to_pylist()
    return [column.type if valid else None for valid in column.is_valid().to_pylist()]
