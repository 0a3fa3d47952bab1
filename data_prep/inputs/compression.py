"""Compressed files as a sequence of byte chunks, whatever the library and however many frames."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

CHUNK_BYTES = 1 << 20
# What a decompressor raises for a file that is not what its ending says.
DECOMPRESSION_ERRORS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

_MAX_OUTPUT_BYTES = 4 << 20


class _Frame(Protocol):
    """Decompresses one frame (stream, member) of a file."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _WholeOutput:
    """A library's object that gives all it can, instead of at most so many bytes."""

    needs_input = True

    def __init__(self, library_object: "zlib._Decompress | zstandard.ZstdDecompressionObj") -> None:
        self._object = library_object

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._object.decompress(data)


def _gzip_member() -> _Frame:
    return _WholeOutput(zlib.decompressobj(wbits=16 + zlib.MAX_WBITS))


def _xz_stream() -> _Frame:
    # Left to itself, the library also takes the older .lzma, of which a file of zeros is an empty one.
    return lzma.LZMADecompressor(lzma.FORMAT_XZ)


def _zstandard_frame() -> _Frame:
    return _WholeOutput(zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj())


# A new frame, and how much to feed it at a time. Where the output cannot be bounded, the input is: gzip makes
# at most 1000 bytes of one, zstandard 32,000 (a file full of NULs after a crash is enough).
_COMPRESSIONS: dict[str, tuple[Callable[[], _Frame], int]] = {
    ".gz": (_gzip_member, 1 << 16),
    ".bz2": (bz2.BZ2Decompressor, 1 << 16),
    ".xz": (_xz_stream, 1 << 16),
    ".zst": (_zstandard_frame, 1 << 13),
}
COMPRESSED_ENDINGS = tuple(_COMPRESSIONS)


def is_compressed(path: Path) -> bool:
    """Whether the last ending is a compression's."""
    return path.suffix.lower() in _COMPRESSIONS


def content_ending(path: Path) -> str:
    """The ending that tells the format, in lower case, with a compression's taken off."""
    return Path(path.stem).suffix.lower() if is_compressed(path) else path.suffix.lower()


def read_chunks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The content of the open file of `path`, decompressed if its ending says so.

    Chunks have any size, and what was readable before an error comes before it.

    Raises:
        EOFError: The compressed file ends too soon.
        DECOMPRESSION_ERRORS: It is damaged, or not compressed like that.
    """
    if is_compressed(path):
        yield from _decompressed(file, *_COMPRESSIONS[path.suffix.lower()])
        return
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _decompressed(file: BinaryIO, new_frame: Callable[[], _Frame], feed_bytes: int) -> Iterator[bytes]:
    frame: _Frame | None = None
    num_frames = 0
    while data := file.read(feed_bytes):
        while data:
            if frame is None:
                # gzip and xz allow zeros between frames and at the end; no frame begins with one.
                data = data.lstrip(b"\0") if num_frames else data
                if not data:
                    break
                frame, num_frames = new_frame(), num_frames + 1
            yield frame.decompress(data, _MAX_OUTPUT_BYTES)
            while not frame.eof and not frame.needs_input:
                yield frame.decompress(b"", _MAX_OUTPUT_BYTES)
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the compressed file is cut short; copy or download it again")
    if not num_frames:
        raise EOFError("the file is empty, without even a compressed file's header")
