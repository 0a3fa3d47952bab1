"""Pieces of files of lines: text, JSON lines, .csv and .tsv, compressed or cut into ranges of bytes."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_prep.inputs.beginning import LOOK_BYTES, check_line_ends, encoding_of, peek
from data_prep.inputs.borders import Blocks, Borders, Lines, Rows, RowScanner, WholeFile
from data_prep.inputs.compression import CHUNK_BYTES, DECOMPRESSION_ERRORS, read_chunks
from data_prep.inputs.csv_rows import parse_row
from data_prep.inputs.damage import DamagedFile, listed, undecodable
from data_prep.inputs.encodings import UTF_8, decoded, shows_borders
from data_prep.inputs.formats import delimiter, file_format
from data_prep.inputs.iso_2022 import designation, what_to_do
from data_prep.inputs.pieces import Piece, PieceFormat, damage_piece, place, too_large
from data_prep.inputs.pointers import check_is_no_pointer
from data_prep.inputs.segments import Stretch, stored_bytes
from data_prep.inputs.sources import Quoting, Source
from data_prep.inputs.window import Window, cut_records, record_end

_UTF8_MARK = b"\xef\xbb\xbf"
_HINTS: dict[PieceFormat, str] = {
    "file": "; if the file holds several, use --text-documents line or block",
    "csv": "; is a quote never closed?",
}


class _Opened(NamedTuple):
    """A stretch of an open file, ready to be cut.

    Attributes:
        window: Its bytes, in an encoding that shows borders.
        encoding: That encoding.
        start: The byte of the file at which they begin.
        size: Stored bytes.
    """

    window: Window
    encoding: str
    start: int
    size: int


def read_raw_pieces(
    stretch: Stretch, source: Source, part_bytes: int, max_record_bytes: int
) -> Iterator[tuple[Piece, float]]:
    """The pieces of a stretch, each with the share of the stretch that has been read after it.

    Raises:
        DamagedFile: Its beginning or its bytes do not fit the encoding asked for.
        DECOMPRESSION_ERRORS: The file cannot be read any further.
    """
    path = Path(stretch.path)
    kind, borders = _records(path, source)
    with path.open("rb") as file:
        try:
            window, encoding, start, size = _open(file, stretch, source, borders)
        except DamagedFile:
            if stretch.start:  # told once, by the first stretch
                return
            raise
        # Lines can be counted only from the first one.
        line, separator, header = int(start == 0), "", tuple[str, ...]()
        if kind == "csv":
            separator = delimiter(path)
            row, line = _read_header(window, borders, max_record_bytes)
            header = _names(row, separator, source.quoting, encoding)
        target_bytes = max_record_bytes if kind == "file" else part_bytes
        for cut in cut_records(window, borders, target_bytes, max_record_bytes):
            share = (file.tell() - start) / max(1, size)
            if cut.data is None:
                where = str(path) if kind == "file" else place(path, line, cut.offset)
                detail = too_large(max_record_bytes) + _HINTS.get(kind, "")
                yield damage_piece(path, "record too large", where, detail), share
            else:
                piece = Piece(str(path), kind, cut.data, line, cut.offset, separator, header, encoding)
                yield piece, share
            if line:
                line += cut.line_feeds if cut.data is None else cut.data.count(b"\n")
        if window.error is not None:
            raise window.error


def _open(file: BinaryIO, stretch: Stretch, source: Source, borders: Borders) -> _Opened:
    """Look at the beginning of the file, whichever stretch of it is meant, and go to that.

    Raises:
        DamagedFile: The beginning says that the file is not what it should be.
    """
    check_is_no_pointer(file)
    path = Path(stretch.path)
    chunks: Iterator[bytes] = iter(())
    if stretch.end is None:
        head, chunks = peek(read_chunks(file, path), LOOK_BYTES, DECOMPRESSION_ERRORS)
    else:
        head = file.read(LOOK_BYTES)
    encoding = encoding_of(head, source.encoding)
    if not isinstance(borders, WholeFile):
        check_line_ends(head, encoding)
    start, size = 0, stored_bytes(path)
    if stretch.end is not None:
        start, end = (_border_at(file, cut, borders) for cut in (stretch.start, stretch.end))
        size = end - start
        file.seek(start)
        chunks = _read_range(file, size)
    if not shows_borders(encoding):
        chunks, encoding = decoded(chunks, encoding), UTF_8
    window = Window(chunks, DECOMPRESSION_ERRORS, start)
    if start == 0 and encoding == UTF_8:
        _skip_mark(window)
    return _Opened(window, encoding, start, size)


def _records(path: Path, source: Source) -> tuple[PieceFormat, Borders]:
    kind = file_format(path)
    if kind == "json":
        return "json", Lines()
    if kind == "csv":
        return "csv", Lines() if source.quoting == "none" else Rows(delimiter(path))
    if source.text_documents == "line":
        return "lines", Lines()
    if source.text_documents == "block":
        return "blocks", Blocks()
    return "file", WholeFile()


def _border_at(file: BinaryIO, cut: int, borders: Borders) -> int:
    """Where the first record begins that does not begin before byte `cut`.

    A block counts as beginning with the line feed before the blank line before it: that is what is found
    without looking back.
    """
    if cut == 0:
        return 0
    scanner = Blocks().scanner(at_line_start=False) if isinstance(borders, Blocks) else borders.scanner()
    offset = cut - 1
    file.seek(offset)
    while chunk := file.read(CHUNK_BYTES):
        border = scanner.find(chunk, 0, len(chunk))
        if border >= 0:
            return offset + border
        offset += len(chunk)
    return offset


def _read_range(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    while num_bytes > 0 and (chunk := file.read(min(CHUNK_BYTES, num_bytes))):
        yield chunk
        num_bytes -= len(chunk)


def _skip_mark(window: Window) -> None:
    """Drop the byte order mark."""
    window.fill(len(_UTF8_MARK))
    if window.data.startswith(_UTF8_MARK):
        window.take(len(_UTF8_MARK))


def _read_header(window: Window, borders: Borders, max_record_bytes: int) -> tuple[bytes, int]:
    """The first row that is not blank, and the number of the line behind it."""
    line = 1
    while window.fill(1):
        scanner = borders.scanner()
        end = record_end(window, scanner, max_record_bytes)
        if end < 0 or (isinstance(scanner, RowScanner) and scanner.quote_is_open):
            raise ValueError("its first row, which must name the fields, has a quote that is never closed")
        if end == window.start:
            break
        row = window.take(end)
        line += row.count(b"\n")
        if row.strip(b"\r\n"):
            return row, line
    raise window.error or ValueError("no header line: the first row must name the fields")


def _names(row: bytes, separator: str, quoting: Quoting, encoding: str) -> tuple[str, ...]:
    if sequence := designation(row):
        raise DamagedFile("another encoding", what_to_do(sequence))
    try:
        names = tuple(parse_row(row.decode(encoding), separator, quoting))
    except UnicodeDecodeError as error:
        raise ValueError(f"in its header line, {undecodable(error, encoding)[1]}") from error
    except csv.Error as error:
        raise ValueError(f"its header line cannot be read: {error}") from error
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise ValueError(f"its header line names {listed(repeated)} more than once")
    return names
