"""Reading a segment as parts: raw records in pieces, which worker processes turn into documents.

This runs in the one process that feeds the workers, so it finds where records end and decodes nothing. What
is in which part depends on the files and `part_bytes` alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.inputs.damage import DamagedFile
from data_prep.inputs.formats import file_format
from data_prep.inputs.pieces import Piece, damage_piece
from data_prep.inputs.pointers import check_is_no_pointer
from data_prep.inputs.raw_pieces import read_raw_pieces
from data_prep.inputs.segments import Segment, Stretch, stored_bytes
from data_prep.inputs.sources import Source
from data_prep.inputs.table_pieces import read_table_pieces
from data_prep.inputs.tables import TABLE_ERRORS

MAX_RECORD_BYTES = 16 << 20  # a larger document would take a worker's memory many times over


class Part(NamedTuple):
    """The unit of work: pieces of consecutive files of one segment.

    `stored_bytes` tells how much of the segment has been read after it, for a progress bar.
    """

    number: int
    pieces: list[Piece]
    stored_bytes: int


def read_parts(segment: Segment, source: Source, part_bytes: int) -> Iterator[Part]:
    """The parts of a segment, numbered from 0, each of about `part_bytes` or one larger record.

    Files that cannot be read, or not to their end, and records above MAX_RECORD_BYTES become pieces of the
    format "damage"; nothing is raised for them.

    Args:
        segment: What to read.
        source: The source it was cut from.
        part_bytes: The size of a part in decompressed bytes.
    """
    number, pieces, held_bytes = 0, list[Piece](), 0
    finished = consumed = 0
    for stretch in segment.stretches:
        alone = len(segment.stretches) == 1
        stretch_bytes = segment.bytes if alone else stored_bytes(Path(stretch.path))
        for piece, share in _pieces(stretch, source, part_bytes):
            if pieces and held_bytes + len(piece.data) > part_bytes:
                yield Part(number, pieces, consumed)
                number, pieces, held_bytes = number + 1, [], 0
            pieces.append(piece)
            held_bytes += len(piece.data)
            consumed = finished + int(stretch_bytes * min(1.0, share))
        finished += stretch_bytes
    if pieces:
        yield Part(number, pieces, finished)


def _pieces(stretch: Stretch, source: Source, part_bytes: int) -> Iterator[tuple[Piece, float]]:
    """The pieces of a stretch, each with the share of the stretch that has been read after it."""
    path = Path(stretch.path)
    try:
        if file_format(path) in ("parquet", "arrow"):
            with path.open("rb") as file:
                check_is_no_pointer(file)
            yield from read_table_pieces(stretch, source.text_fields, part_bytes, MAX_RECORD_BYTES)
        else:
            yield from read_raw_pieces(stretch, source, part_bytes, MAX_RECORD_BYTES)
    except DamagedFile as error:
        where = f"{path}, line {error.line}" if error.line else str(path)
        yield damage_piece(path, error.reason, where, error), 1.0
    except TABLE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            # The disk or the network, not the file: read again, it may be whole.
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        # A library's OSError has its message, the operating system's a reason.
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        yield damage_piece(path, "broken file", str(path), reason or type(error).__name__), 1.0
