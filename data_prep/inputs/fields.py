"""A look at the first records of every source, before hours of reading records without their text."""

import json
from itertools import islice
from pathlib import Path

from data_prep.errors import DataError
from data_prep.inputs.damage import listed
from data_prep.inputs.formats import file_format
from data_prep.inputs.parts import read_parts
from data_prep.inputs.pieces import Piece
from data_prep.inputs.segments import Segment, Stretch
from data_prep.inputs.sources import Source

_LOOK_BYTES = 1 << 16
_LOOK_RECORDS = 100


def check_fields(sources: list[Source]) -> None:
    """Refuse a text field that the first file with fields does not have.

    In a .csv, Parquet or Arrow file every row has the same fields; of JSON lines, which may leave out
    some, the first hundred are looked at. Damage is no business of this look.

    Raises:
        DataError: Names the file, the fields it has, and the option.
    """
    for source in sources:
        for path in source.files:
            if (fields := _fields(path, source)) is None:
                continue
            missing = [name for name in source.text_fields if name not in fields]
            if missing:
                raise DataError(
                    f"{path}: no field {listed(missing)}; its fields are {listed(fields)}; name those that "
                    "hold the text with --text-field (text_field in a mixture)"
                )
            break


def _fields(path: Path, source: Source) -> tuple[str, ...] | None:
    """The fields of a file's first records; None if it has no such records or no fields at all."""
    if file_format(path) == "text":
        return None
    segment = Segment(0, (Stretch(str(path), 0, None),), 0)
    part = next(read_parts(segment, source, _LOOK_BYTES), None)
    piece = part.pieces[0] if part else None
    if piece is None or piece.format == "damage":
        return None
    return _json_fields(piece) if piece.format == "json" else piece.header


def _json_fields(piece: Piece) -> tuple[str, ...] | None:
    names: dict[str, None] = {}
    for line in islice(filter(bytes.strip, piece.data.split(b"\n")), _LOOK_RECORDS):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            names.update(dict.fromkeys(record))
    return tuple(names) or None
