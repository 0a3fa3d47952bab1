"""A look at the first records of every source, before hours of reading records without their text."""

import json
from itertools import islice
from pathlib import Path

from data_prep.errors import DataError
from data_prep.inputs.damage import listed, shown
from data_prep.inputs.formats import delimiter, file_format
from data_prep.inputs.parts import read_parts
from data_prep.inputs.pieces import Piece
from data_prep.inputs.segments import Segment, Stretch
from data_prep.inputs.sources import Source

_LOOK_BYTES = 1 << 16
_LOOK_RECORDS = 100
_LOOK_FILES = 1000
_SHOWN_FILES = 3
_SHOWN_CHARACTERS = 40


def check_fields(sources: list[Source]) -> None:
    """Refuse a text field that one of the first thousand files of a source does not have.

    In a .csv, Parquet or Arrow file every row has the same fields; of JSON lines, which may leave out
    some, the first hundred are looked at. Damage is no business of this look.

    Raises:
        DataError: Names the files, the fields they have, and the option.
    """
    for source in sources:
        problems = [
            f"{path}: no field {listed(missing)}; its fields are {_shown(fields)}{_hint(path, fields)}"
            for path in source.files[:_LOOK_FILES]
            if (fields := _fields(path, source)) is not None
            and (missing := [name for name in source.text_fields if name not in fields])
        ]
        if problems:
            told = problems[:_SHOWN_FILES]
            if len(problems) > _SHOWN_FILES:
                told.append(f"and {len(problems) - _SHOWN_FILES:,} more of {len(source.files):,} files")
            raise DataError(
                "\n  ".join(told) + "\nname the fields that hold the text with --text-field (text_field "
                "in a mixture), or leave these files out"
            )


def _shown(fields: tuple[str, ...]) -> str:
    return listed([shown(name[:_SHOWN_CHARACTERS]) for name in fields])


def _hint(path: Path, fields: tuple[str, ...]) -> str:
    """What else may be wrong with a .csv or .tsv file."""
    if file_format(path) != "csv":
        return ""
    other = next((mark for mark in ";\t,|" if mark in fields[0] and mark != delimiter(path)), None)
    if len(fields) == 1 and other is not None:
        return f" (they seem to be separated by {other!r}; convert the file)"
    return " (if these are no names, the file has no header line: write one as its first)"


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
            record = json.loads(line.decode(piece.encoding))
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            names.update(dict.fromkeys(record))
    return tuple(names) or None
