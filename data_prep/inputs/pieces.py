"""The piece: raw records on their way from the reading process to a worker."""

import json
from pathlib import Path
from typing import Literal, NamedTuple

from data_prep.inputs.damage import Damage, DamageReason, damage

PieceFormat = Literal["lines", "blocks", "file", "json", "csv", "table", "damage"]


class Piece(NamedTuple):
    """Whole records of one file, or one damage.

    Attributes:
        path: The file.
        format: How `data` is to be read: raw lines, an Arrow IPC stream of the text columns ("table"),
            or a Damage as JSON.
        data: The records.
        first: The number of the first line or row in the file, from 1; 0 if it is not known, because
            reading began inside the file.
        offset: The byte of the decompressed file at which `data` begins; 0 for tables.
        delimiter: What separates fields ("csv").
        header: The names of all fields ("csv") or columns ("table").
        encoding: Of `data`, raw lines of any format.
    """

    path: str
    format: PieceFormat
    data: bytes
    first: int = 0
    offset: int = 0
    delimiter: str = ""
    header: tuple[str, ...] = ()
    encoding: str = "utf-8"


def damage_piece(path: Path, reason: DamageReason, where: str, detail: object) -> Piece:
    """A piece that stands for what cannot be read."""
    return Piece(str(path), "damage", json.dumps(damage(reason, where, detail)).encode())


def damage_of(piece: Piece) -> Damage:
    """What `damage_piece` was given."""
    return Damage(*json.loads(piece.data))


def place(path: str | Path, line: int, offset: int) -> str:
    """Where a record is: by its line if it is known, else by its first byte."""
    return f"{path}, line {line}" if line else f"{path}, byte {offset}"


def too_large(max_record_bytes: int) -> str:
    """What is said about a record above the limit."""
    return f"larger than {max_record_bytes:,} bytes, too much for one document"
