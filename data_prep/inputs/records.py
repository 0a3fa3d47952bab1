"""From a piece to its documents; this runs in worker processes."""

import csv
import json
from collections.abc import Callable, Iterator

from data_prep.inputs.borders import WHITE_SPACE, Rows
from data_prep.inputs.csv_rows import parse_row
from data_prep.inputs.damage import Damage, DamageReason, damage, shown, undecodable
from data_prep.inputs.iso_2022 import designation, what_to_do
from data_prep.inputs.pieces import Piece, PieceFormat, damage_of, place
from data_prep.inputs.sources import Source
from data_prep.inputs.table_records import table_records
from data_prep.inputs.text_fields import DamagedRecord, join_fields

Record = str | Damage


def read_records(piece: Piece, source: Source) -> Iterator[Record]:
    """Every record of a piece, in order: the text of a document, or why there is none.

    Blank lines of JSON and .csv files are not records.
    """
    yield from _READERS[piece.format](piece, source)


def _lines(piece: Piece) -> Iterator[tuple[int, int, bytes]]:
    """Lines without their ends, each with its number (0: unknown) and its offset in the file."""
    line, offset = piece.first, piece.offset
    lines = piece.data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for content in lines:
        yield line, offset, content.removesuffix(b"\r")
        line += bool(line)
        offset += len(content) + 1


def _line_records(piece: Piece, source: Source) -> Iterator[Record]:
    for line, offset, content in _lines(piece):
        yield _decoded(content, piece, line, offset)


def _block_records(piece: Piece, source: Source) -> Iterator[Record]:
    block: list[bytes] = []
    first, start = 0, 0
    for line, offset, content in _lines(piece):
        if content.strip(WHITE_SPACE):
            if not block:
                first, start = line, offset
            block.append(content)
        elif block:
            yield _decoded(b"\n".join(block), piece, first, start)
            block = []
    if block:
        yield _decoded(b"\n".join(block), piece, first, start)


def _decoded(content: bytes, piece: Piece, line: int, offset: int) -> Record:
    try:
        return _text(content, piece)
    except DamagedRecord as error:
        return damage(error.reason, place(piece.path, line, offset), error)


def _text(content: bytes, piece: Piece) -> str:
    """A record as text; a DamagedRecord if its bytes are none in the encoding of the piece."""
    if sequence := designation(content):
        raise DamagedRecord("another encoding", what_to_do(sequence), content.index(sequence))
    try:
        return content.decode(piece.encoding)
    except UnicodeDecodeError as error:
        raise DamagedRecord(*undecodable(error, piece.encoding), error.start) from error


def _file_record(piece: Piece, source: Source) -> Iterator[Record]:
    try:
        text = _text(piece.data, piece).replace("\r\n", "\n")
    except DamagedRecord as error:
        line = piece.data.count(b"\n", 0, error.start) + 1
        yield damage(error.reason, place(piece.path, line, 0), error)
        return
    if "\n" not in text:  # the line ends may be those of the first Macs
        text = text.replace("\r", "\n")
    yield text.removesuffix("\n")


def _json_records(piece: Piece, source: Source) -> Iterator[Record]:
    for line, offset, content in _lines(piece):
        if not content.strip(WHITE_SPACE):
            continue
        try:
            yield _json_text(_text(content, piece), source.text_fields)
        except DamagedRecord as error:
            yield damage(error.reason, place(piece.path, line, offset), error)


def _json_text(line: str, text_fields: tuple[str, ...]) -> str:
    try:
        value = json.loads(line)
    except RecursionError as error:
        raise DamagedRecord("broken JSON", "nested too deeply") from error
    except ValueError as error:
        raise DamagedRecord("broken JSON", f"{error}; found: {shown(line)}{_array_hint(line)}") from error
    if not isinstance(value, dict):
        expected = f'expected an object like {{"{text_fields[0]}": "..."}} on each line'
        raise DamagedRecord("broken JSON", f"{expected}; found: {shown(line)}{_array_hint(line)}")
    text = join_fields(value, text_fields)
    if "\\u" in line:  # the only way to write one
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise DamagedRecord(
                "broken JSON", f"{half} is half of a surrogate pair, which is no character"
            ) from error
    return text


_TABS_IN_QUOTES = (
    "a quoted field holds tabs and line ends; if quotes mean nothing in this file, use --quoting none"
)


def _array_hint(line: str) -> str:
    is_array = line.lstrip().startswith("[")
    return "; make lines of a JSON array with: jq -c '.[]' IN > OUT.jsonl" if is_array else ""


def _csv_records(piece: Piece, source: Source) -> Iterator[Record]:
    if source.quoting == "none":
        for line, _, row in _lines(piece):
            if row not in (b"\n", b"\r\n"):
                yield _csv_record(row, line, piece, source)
        return
    borders = Rows(piece.delimiter)
    data, start, line = piece.data, 0, piece.first
    while start < len(data):
        scanner = borders.scanner()
        end = scanner.find(data, start, len(data))
        if end < 0:
            end = len(data)
            if scanner.quote_is_open:
                # The row would swallow the rest of the file. Without its first line, nothing does: a quote
                # that opens a field further on would have closed this one.
                end = data.find(b"\n", start) + 1 or len(data)
                found = f"a quote is never closed; found: {_shown(data[start:end])}"
                yield damage("broken row", place(piece.path, line, 0), found)
                start, line = end, line + 1
                continue
        row = data[start:end]
        if row not in (b"\n", b"\r\n"):
            yield _csv_record(row, line, piece, source)
        start, line = end, line + row.count(b"\n")


def _csv_record(row: bytes, line: int, piece: Piece, source: Source) -> Record:
    reason: DamageReason
    try:
        fields = parse_row(_text(row, piece), piece.delimiter, source.quoting)
        if piece.delimiter == "\t" and any("\t" in field and "\n" in field for field in fields):
            # Nobody's text: a stray quote has made one field of several rows.
            raise DamagedRecord("broken row", f"{_TABS_IN_QUOTES}; found: {_shown(row)}")
        if len(fields) == len(piece.header):
            return join_fields(dict(zip(piece.header, fields)), source.text_fields)
        problem = f"{len(fields)} fields, but the header names {len(piece.header)}"
        reason, detail = "broken row", f"{problem}; found: {_shown(row)}"
    except csv.Error as error:
        reason, detail = "broken row", f"{error}; found: {_shown(row)}"
    except DamagedRecord as error:
        reason, detail = error.reason, str(error)
    return damage(reason, place(piece.path, line, 0), detail)


def _shown(row: bytes) -> str:
    return shown(row[:400].decode(errors="replace").rstrip("\r\n"))


def _damage_record(piece: Piece, source: Source) -> Iterator[Record]:
    yield damage_of(piece)


_READERS: dict[PieceFormat, Callable[[Piece, Source], Iterator[Record]]] = {
    "lines": _line_records,
    "blocks": _block_records,
    "file": _file_record,
    "json": _json_records,
    "csv": _csv_records,
    "table": table_records,
    "damage": _damage_record,
}
