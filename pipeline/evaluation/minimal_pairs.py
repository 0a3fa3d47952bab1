"""Minimal pairs on disk, as BLiMP has them (Warstadt et al. 2020): a JSON-lines file per paradigm."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError, UsageError

_SUFFIXES = (".jsonl", ".jsonl.gz")
_FIELDS = ("sentence_good", "sentence_bad", "linguistics_term", "field", "UID")


@dataclass(frozen=True)
class Paradigm:
    """Pairs that show one contrast.

    Attributes:
        uid: name of the paradigm and of its file.
        term: phenomenon it belongs to.
        field: of linguistics.
        pairs: acceptable and unacceptable sentence of each.
        places: file and line of each pair, for messages.
    """

    uid: str
    term: str
    field: str
    pairs: list[tuple[str, str]]
    places: list[str]


def paradigm_files(directory: Path) -> list[Path]:
    """Those of a directory that are not hidden, by name; a DataError if there is none."""
    if not directory.is_dir():
        raise UsageError(f"--data {directory} is a file; name the directory it lies in")
    names = sorted(file for file in directory.iterdir() if file.name.endswith(_SUFFIXES))
    files = [file for file in names if not file.name.startswith(".")]
    if not files:
        raise DataError(
            f"{directory} holds no UID.jsonl or UID.jsonl.gz; name the directory that has BLiMP's paradigms"
        )
    return files


def read_paradigms(directory: Path, limit: int | None) -> list[Paradigm]:
    """All paradigms of a directory, by name.

    Args:
        directory: with files UID.jsonl or UID.jsonl.gz.
        limit: pairs read of each, from its beginning; None for all.

    Raises:
        UsageError: it is no directory.
        DataError: there is no such file, or a line is not what it should be.
    """
    files = paradigm_files(directory)
    paradigms = [_read_paradigm(file, limit) for file in files]
    for paradigm, other, file in zip(paradigms, paradigms[1:], files[1:]):
        if paradigm.uid == other.uid:
            raise DataError(f"{file}: paradigm {other.uid!r} is in {directory} twice; keep one of its files")
    return paradigms


def _read_paradigm(file: Path, limit: int | None) -> Paradigm:
    uid = file.name.removesuffix(".gz").removesuffix(".jsonl")
    records: list[dict[str, str]] = []
    places: list[str] = []
    for place, record in _read_records(file):
        if record["UID"] != uid:
            raise DataError(f"{place}: UID is {record['UID']!r}; the file's name wants {uid!r}")
        if records and record["linguistics_term"] != records[0]["linguistics_term"]:
            raise DataError(
                f"{place}: linguistics_term is {record['linguistics_term']!r}, on the lines before "
                f"{records[0]['linguistics_term']!r}; a paradigm has one"
            )
        records.append(record)
        places.append(place)
        if len(records) == limit:
            break
    if not records:
        raise DataError(f"{file} holds no pairs; write one JSON object a line, or remove the file")
    pairs = [(record["sentence_good"], record["sentence_bad"]) for record in records]
    return Paradigm(uid, records[0]["linguistics_term"], records[0]["field"], pairs, places)


def _read_records(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every pair with its file and line; blank lines are passed over."""
    number = 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    place = f"{file}, line {number}"
                    yield place, _parse(line, place)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}, after line {number}: cannot be read ({error}); fetch it again") from error


def _parse(line: bytes, place: str) -> dict[str, str]:
    try:
        record = json.loads(line.decode())
    except ValueError as error:
        raise DataError(f"{place}: no JSON ({error}); write an object with {', '.join(_FIELDS)}") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: {type(record).__name__}; write an object with {', '.join(_FIELDS)}")
    for name in _FIELDS:
        value = record.get(name)
        if not isinstance(value, str) or not value.strip():
            found = "is missing" if name not in record else f"is {value!r}"
            raise DataError(f"{place}: {name} {found}; write a text")
    return record
