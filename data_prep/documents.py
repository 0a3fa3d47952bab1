"""Reading text corpora document by document, in a fixed order, without holding more than one.

    .txt            UTF-8 text; a document is the file, a block between blank lines, or a line
    .jsonl, .json   one JSON object per line, the text in one of its fields

Each may be compressed: .gz, .xz, .zst. A file that cannot be read as such raises a DataError that names
the file and, where there is one, the line.
"""

import glob
import gzip
import io
import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import zstandard

from data_prep.errors import DataError, UsageError

TextDocuments = Literal["file", "block", "line"]

_TEXT_SUFFIXES = {".txt"}
_JSON_SUFFIXES = {".jsonl", ".json"}
_COMPRESSED_SUFFIXES = {".gz", ".xz", ".zst"}
_ENDINGS = ".txt, .jsonl or .json, each also with .gz, .xz or .zst"
_CHUNK_BYTES = 1 << 20
_SHOWN_CHARACTERS = 60


class Document(NamedTuple):
    """One document and how far into its file, in bytes as stored, reading has come."""

    text: str
    position: int


def find_inputs(inputs: Iterable[str]) -> list[Path]:
    """The files that `inputs` mean, each once, in the order given.

    Args:
        inputs: Files, directories (searched recursively) and glob patterns; the files of a directory or
            a pattern come sorted by path.

    Raises:
        DataError: An input does not exist, or holds no file that can be read.
        UsageError: A file named outright has an unknown ending.
    """
    found: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            found += _inside(path)
        elif path.exists():
            if not _is_readable(path):
                raise UsageError(f"{path}: cannot tell its format by its ending; expected {_ENDINGS}")
            found.append(path)
        elif glob.has_magic(name):
            found += _matching(name)
        else:
            raise DataError(f"{path}: no such file or directory")
    return list(dict.fromkeys(found))


def read_documents(path: Path, text_field: str, text_documents: TextDocuments) -> Iterator[Document]:
    """The documents of one file, in order.

    Args:
        path: A file `find_inputs` returned.
        text_field: The field of a JSON line that holds the text.
        text_documents: What a document is in a .txt file.

    Raises:
        DataError: The file is not what its ending says; the message names the line.
    """
    try:
        with path.open("rb") as stored:
            lines = _decoded_lines(path, _decompressed(stored, path.suffix))
            if _content_suffix(path) in _JSON_SUFFIXES:
                texts = _json_texts(path, lines, text_field)
            else:
                texts = _plain_texts(lines, text_documents)
            for text in texts:
                yield Document(text, stored.tell())
    except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _content_suffix(path: Path) -> str:
    """The ending that tells the format, with a compression's ending taken off."""
    return Path(path.stem).suffix if path.suffix in _COMPRESSED_SUFFIXES else path.suffix


def _is_readable(path: Path) -> bool:
    return _content_suffix(path) in _TEXT_SUFFIXES | _JSON_SUFFIXES


def _inside(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _is_readable(path))
    files = [
        path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"{folder}: this directory holds no {_ENDINGS} file")
    return files


def _matching(pattern: str) -> list[Path]:
    # Path.glob takes no absolute pattern.
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207
    files = sorted(path for path in map(Path, names) if path.is_file())
    if not files:
        raise DataError(f"{pattern}: no file matches this pattern")
    for path in files:
        if not _is_readable(path):
            raise UsageError(f"{path} (from {pattern}): cannot tell its format; expected {_ENDINGS}")
    return files


def _decompressed(stored: BinaryIO, suffix: str) -> BinaryIO:
    if suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=stored), _CHUNK_BYTES)
    if suffix == ".xz":
        return io.BufferedReader(lzma.LZMAFile(stored), _CHUNK_BYTES)
    if suffix == ".zst":
        return io.BufferedReader(_ZstandardFile(stored), _CHUNK_BYTES)
    return stored


class _ZstandardFile(io.RawIOBase):
    """Decompresses frame after frame; unlike the library's reader, notices a file cut short."""

    def __init__(self, stored: BinaryIO) -> None:
        self._stored = stored
        self._frame = _new_frame()
        self._frame_begun = False
        self._decoded = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: "memoryview") -> int:  # type: ignore[override]
        while not self._decoded:
            # What lies behind a frame's end is the beginning of the next one.
            data = self._frame.unused_data or self._stored.read(_CHUNK_BYTES)
            if self._frame.eof:
                self._frame, self._frame_begun = _new_frame(), False
            if not data:
                if self._frame_begun:
                    raise EOFError("the compressed file ends in the middle of a frame")
                return 0
            self._frame_begun = True
            self._decoded = memoryview(self._frame.decompress(data))
        size = min(len(target), len(self._decoded))
        target[:size] = self._decoded[:size]
        self._decoded = self._decoded[size:]
        return size


def _new_frame() -> "zstandard.ZstdDecompressionObj":
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


def _decoded_lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    """Lines without their line ends, Unix or Windows."""
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: byte 0x{line[error.start]:02x} at column {error.start + 1} "
                "is not UTF-8; convert the file, for example with 'iconv -f LATIN1 -t UTF-8'"
            ) from error


def _plain_texts(lines: Iterator[str], text_documents: TextDocuments) -> Iterator[str]:
    if text_documents == "line":
        yield from lines
        return
    block: list[str] = []
    for line in lines:
        if text_documents == "block" and not line.strip():
            if block:
                yield "\n".join(block)
            block = []
        else:
            block.append(line)
    if block:
        yield "\n".join(block)


def _json_texts(path: Path, lines: Iterator[str], text_field: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _text_of(json.loads(line), text_field)
        except RecursionError as error:
            raise DataError(f"{path}, line {number}: JSON nested too deeply") from error
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; found: {_shown(line)}") from error


def _text_of(value: object, text_field: str) -> str:
    """The text of one decoded JSON line; a ValueError says why there is none."""
    if not isinstance(value, dict):
        raise ValueError(f'expected a JSON object per line, like {{"{text_field}": "..."}}')
    if text_field not in value:
        fields = ", ".join(repr(name) for name in value) or "none"
        raise ValueError(f"no field {text_field!r}; its fields are {fields}; name one with --text-field")
    text = value[text_field]
    if not isinstance(text, str):
        raise ValueError(f"field {text_field!r} must be a string, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"field {text_field!r} holds half a surrogate pair, which is no character") from None
    return text


def _shown(line: str) -> str:
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + "..."
