"""Which encodings "auto" takes files for, to be told before they are read."""

from pathlib import Path

from data_prep.inputs.beginning import LOOK_BYTES, encoding_of, peek
from data_prep.inputs.compression import DECOMPRESSION_ERRORS, read_chunks
from data_prep.inputs.damage import DamagedFile
from data_prep.inputs.encodings import AUTO, UTF_8
from data_prep.inputs.formats import file_format
from data_prep.inputs.sources import Source

_LOOK_FILES = 1000


def guessed_encodings(source: Source) -> dict[str, list[Path]]:
    """Those of the first thousand files of a source with "auto" that are not UTF-8, by their encoding."""
    guessed: dict[str, list[Path]] = {}
    if source.encoding != AUTO:
        return guessed
    for path in source.files[:_LOOK_FILES]:
        if file_format(path) in ("text", "json", "csv") and (encoding := _guess(path)) != UTF_8:
            guessed.setdefault(encoding, []).append(path)
    return guessed


def _guess(path: Path) -> str:
    with path.open("rb") as file:
        head, _ = peek(read_chunks(file, path), LOOK_BYTES, DECOMPRESSION_ERRORS)
    try:
        return encoding_of(head, AUTO)
    except DamagedFile:  # told when it is read
        return UTF_8
