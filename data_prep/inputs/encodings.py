"""The encodings of files of lines: their names, which ones show borders, and decoding those that do not."""

import codecs
from collections.abc import Iterator

from data_prep.inputs.damage import DamagedFile

AUTO = "auto"
UTF_8 = "utf-8"

# Text encodings to Python, but of names and of source code: they cannot be read piece by piece.
_NOT_OF_FILES = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape")
_ASCII = bytes(range(128)) + b"\x1b$B!!"  # and the escape sequence of ISO-2022-JP with a character behind it


def text_encoding(name: str) -> str:
    """The one spelling of an encoding, "utf-8" for 'UTF8', or AUTO.

    Raises:
        ValueError: Python knows no such encoding, or it is none of text files; the message says what to
            write instead.
    """
    if name == AUTO:
        return AUTO
    try:
        codec = codecs.lookup(name).name
    except (LookupError, ValueError):
        codec = ""
    if codec in _NOT_OF_FILES or not _gives_text(codec):
        raise ValueError(
            f"{name!r} is not the encoding of a text file; expected one that Python knows, such as utf-8, "
            "cp1252, utf-16-le or shift_jis, or auto"
        )
    return UTF_8 if codec == "utf-8-sig" else codec


def _gives_text(codec: str) -> bool:
    """Whether bytes decode to text with it, and not to bytes, as with base64."""
    try:
        b"x".decode(codec)
    except UnicodeError:  # half a character
        return True
    except LookupError:
        return False
    return True


def shows_borders(encoding: str) -> bool:
    """Whether bytes of ASCII are what they seem, so that records can be cut before they are decoded.

    So it is in UTF-8, in the encodings of one byte per character that extend ASCII, and in Shift JIS, GBK
    and their like, whose second bytes are never those at borders; not in UTF-16 or ISO-2022.
    """
    try:
        return _ASCII.decode(encoding) == _ASCII.decode("ascii")
    except UnicodeError:
        return False


def decoded(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The stream in UTF-8, all of it that comes before an error.

    Raises:
        DamagedFile: From some byte on, the stream is not of this encoding.
    """
    decoder = _Decoder(encoding)
    for chunk in chunks:
        yield from decoder.feed(chunk)
    yield from decoder.feed(b"", final=True)


class _Decoder:
    """Decodes a stream; where it fails does not depend on the chunks."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._fed_bytes = 0
        self._line = 1

    def feed(self, chunk: bytes, final: bool = False) -> Iterator[bytes]:
        before = self._decoder.getstate()
        try:
            text = self._decoder.decode(chunk, final).encode()
        except UnicodeError as error:
            self._decoder.setstate(before)
            if len(chunk) <= 1:
                raise self._damage(chunk) from error
            middle = len(chunk) // 2
            yield from self.feed(chunk[:middle])
            yield from self.feed(chunk[middle:], final)
            return
        self._fed_bytes += len(chunk)
        self._line += text.count(b"\n")
        yield text

    def _damage(self, byte: bytes) -> DamagedFile:
        found = f"byte 0x{byte.hex()} at {self._fed_bytes:,}" if byte else "its end, within a character,"
        told = f"{found} is not {self._encoding}; the rest of the file is left out"
        return DamagedFile("not decodable", told, self._line)
