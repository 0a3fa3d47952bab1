"""Reading the data of tasks: lines of text and tab-separated tables, with the line that a mistake is in."""

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import DataError

Quoting = Literal["none", "standard"]

_MAX_FIELD_CHARACTERS = 1 << 30


@dataclass(frozen=True)
class Row:
    """The fields asked for, of one row of a table.

    Attributes:
        line: number of the line it begins on, from 1.
        values: in the order they were asked for.
    """

    line: int
    values: list[str]


def read_lines(path: Path) -> Iterator[str]:
    r"""Lines with their ends (only \n ends one), of a UTF-8 file; one that ends in .gz is unpacked.

    A byte-order mark at the beginning is left out.

    Raises:
        DataError: The file cannot be read, unpacked or decoded.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error}); convert it, for example with iconv") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def read_header(path: Path, quoting: Quoting) -> list[str]:
    """Column names in a table's first line; a DataError if there is none."""
    for _, fields in _split(path, quoting):
        return fields
    raise DataError(f"{path}: is empty; expected a line with the names of the columns")


def read_table(
    path: Path,
    columns: Sequence[str],
    quoting: Quoting,
    header: Sequence[str] | None = None,
    leave_out_broken: bool = False,
) -> Iterator[Row]:
    """Rows of a tab-separated table.

    Args:
        path: of the file.
        columns: names of those to give.
        quoting: "none": quotes are text, a line is a row; "standard": as the csv module reads them.
        header: names of all columns; None if the first line has them.
        leave_out_broken: pass over rows with too few or too many fields.

    Raises:
        DataError: A column is missing, or a row is broken.
    """
    names = read_header(path, quoting) if header is None else list(header)
    places = [_place(path, column, names) for column in columns]
    rows = _split(path, quoting)
    if header is None:
        next(rows)
    for line, fields in rows:
        if len(fields) == len(names):
            yield Row(line, [fields[place] for place in places])
        elif not leave_out_broken:
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields; expected {len(names)}: {', '.join(names)}"
            )


def find_file(directory: Path, names: Iterable[str]) -> Path | None:
    """The first of these files that is there."""
    return next((directory / name for name in names if (directory / name).is_file()), None)


def require_file(directory: Path, names: Sequence[str]) -> Path:
    """The first of these files that is there; a DataError if none is."""
    if (found := find_file(directory, names)) is None:
        raise DataError(f"{directory}: no {names[0]}; expected {' or '.join(names)} there")
    return found


def _split(path: Path, quoting: Quoting) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every row that is not blank."""
    if quoting == "none":
        for line, text in enumerate(read_lines(path), start=1):
            if row := text.rstrip("\r\n"):
                yield line, row.split("\t")
        return
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)  # of the whole process: 128 KiB unless raised
    reader = csv.reader(read_lines(path), delimiter="\t", strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: {error}; a quote inside a field is written twice") from error


def _place(path: Path, column: str, names: list[str]) -> int:
    if column not in names:
        raise DataError(f"{path}: no column {column!r}; it has {', '.join(names)}")
    return names.index(column)
