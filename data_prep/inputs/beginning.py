"""What the beginning of a file of lines says about all of it: its encoding and its line ends."""

import codecs
from collections.abc import Iterator

from data_prep.inputs.damage import DamagedFile
from data_prep.inputs.detection import guess_encoding
from data_prep.inputs.encodings import AUTO, UTF_8, shows_borders
from data_prep.inputs.iso_2022 import codec_of, designation, is_korean, what_to_do

LOOK_BYTES = 1 << 16

# That of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: UTF_8,
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_HIGH_BYTE = {"utf-16-le": 1, "utf-16-be": 0}  # of two
_LINE_BYTES = 4096  # lines of text are shorter, on average
_CONTROL_BYTES = bytes(range(32))


def peek(
    chunks: Iterator[bytes], num_bytes: int, errors: tuple[type[Exception], ...]
) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of a stream, fewer if it ends before or with one of `errors`, and all of it again."""
    held: list[bytes] = []
    error: Exception | None = None
    try:
        while sum(map(len, held)) < num_bytes and (chunk := next(chunks, None)) is not None:
            held.append(chunk)
    except errors as caught:
        error = caught

    def again() -> Iterator[bytes]:
        yield from held
        if error is not None:
            raise error
        yield from chunks

    return b"".join(held)[:num_bytes], again()


def encoding_of(head: bytes, asked: str) -> str:
    """The encoding a file is to be read in: the one asked for, or what "auto" finds.

    Raises:
        DamagedFile: It is evidently in another one, or it cannot be told.
    """
    marked = _marked(head)
    if asked == AUTO:
        return marked or _unmarked(head) or _detected(head)
    if marked is not None:
        if asked not in (marked, marked[:6]):  # utf-16 is either order
            raise DamagedFile("another encoding", f"its first bytes are a mark: it is {_use(marked[:6])}")
        return marked
    if asked in ("utf-16", "utf-32") and head:
        raise DamagedFile(
            "another encoding",
            f"no byte order mark tells the order of its bytes; use --encoding {asked}-le or {asked}-be",
        )
    found = _unmarked(head)
    if found not in (None, asked):
        raise DamagedFile("another encoding", f"it seems to be {_use(str(found))}")
    return asked


def _use(encoding: str) -> str:
    if encoding == UTF_8:
        return "UTF-8; use --encoding utf-8"
    name = encoding.upper().replace("ISO2022_", "ISO-2022-")
    return f"{name}; use --encoding {encoding}, or convert it with 'iconv -f {name} -t UTF-8'"


def check_line_ends(head: bytes, encoding: str) -> None:
    """Refuse a file without the line feeds that end its records.

    Raises:
        DamagedFile: Its lines end in carriage returns only, as on a Mac before 2001.
    """
    data = head if shows_borders(encoding) else head.decode(encoding, "ignore").encode()
    num_returns = data.rstrip(b"\r").count(b"\r")
    # A stray one in the first of very long lines is none.
    if b"\n" not in data and num_returns * _LINE_BYTES > len(data):
        raise DamagedFile(
            "CR line ends",
            r"carriage returns end its lines, and no line feed does; convert it with tr '\r' '\n' < IN > OUT",
        )


def _marked(head: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)


def _unmarked(head: bytes) -> str | None:
    """An encoding of which the bytes could pass as UTF-8 in each line alone."""
    if b"\0" in head:
        for encoding in ("utf-32-le", "utf-32-be"):
            if _is_utf32(head, encoding):
                return encoding
        for encoding in _HIGH_BYTE:
            if _is_utf16(head, encoding):
                return encoding
    return "iso2022_kr" if is_korean(head) else None


def _is_utf32(head: bytes, encoding: str) -> bool:
    """Of other text, the first four bytes show already that it is not."""
    text = _decoded(head, encoding)
    return text is not None and len(text) >= 2 and _is_text(text)


def _is_utf16(head: bytes, encoding: str) -> bool:
    high = _HIGH_BYTE[encoding]
    highs = head[high::2]
    zeros = highs.count(0)
    if zeros < 2:
        return False
    # The scripts below U+2000: every other byte is below 32, and zero for spaces and ASCII.
    num_small = len(highs) - len(highs.translate(None, _CONTROL_BYTES))
    has_pattern = 4 * num_small >= 3 * len(highs) and 50 * zeros >= len(highs)
    if not has_pattern:
        # The others: no UTF-8 on the whole, but a short line may be.
        line_end = "\n".encode(encoding)
        has_line_ends = 2 * head.count(line_end) > head.count(b"\n") > 0
        has_pattern = has_line_ends and _decoded(head, UTF_8) is None
    text = _decoded(head, encoding) if has_pattern else None
    return text is not None and _is_text(text)


def _decoded(head: bytes, encoding: str) -> str | None:
    """The beginning as text, unless it is none; it may end within a character."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None


def _is_text(text: str) -> bool:
    """Whether nearly all is what people write; numbers of a binary file are mostly control characters."""
    return 20 * sum(c.isprintable() or c.isspace() for c in text) >= 19 * len(text)


def _detected(head: bytes) -> str:
    """What the text is or looks like; a DamagedFile if that cannot be told."""
    if sequence := designation(head):
        codec = codec_of(sequence)
        if codec is None:
            raise DamagedFile("another encoding", what_to_do(sequence))
        return codec
    return UTF_8 if _decoded(head, UTF_8) is not None else guess_encoding(head)
