"""Text in one of the ISO-2022 encodings, which passes as ASCII: it is escape sequences and 7-bit codes."""

import re

# An escape sequence that begins characters of two bytes, or half-width katakana. Terminals know ESC ( B and
# ESC [, but none of these.
_DESIGNATION = re.compile(rb"\x1b(?:\$(?:[@AB]|[()*+][0-~])|\(I)")
_KOREAN = b"\x1b$)C"
_CHINESE = (b"\x1b$)A", b"\x1b$)G", b"\x1b$*H")
_EARLY_JAPANESE = (b"\x1b$@", b"\x1b$B")


def designation(data: bytes) -> bytes | None:
    """The first such escape sequence, or None."""
    if b"\x1b" not in data:
        return None
    match = _DESIGNATION.search(data)
    return match[0] if match else None


def is_korean(head: bytes) -> bool:
    """Whether a file begins as ISO-2022-KR, which tells its characters once, and not in every line."""
    return _KOREAN in head


def codec_of(sequence: bytes) -> str | None:
    """Python's name for the encoding, or None: it has none for ISO-2022-CN."""
    if sequence in _CHINESE:
        return None
    if sequence == _KOREAN:
        return "iso2022_kr"
    if sequence == b"\x1b(I":
        return "iso2022_jp_ext"
    return "iso2022_jp" if sequence in _EARLY_JAPANESE else "iso2022_jp_2"


def what_to_do(sequence: bytes) -> str:
    """What is said about a record with the sequence."""
    codec = codec_of(sequence)
    found = f"ESC {sequence[1:].decode()} begins text in ISO-2022"
    if codec is None:
        return f"{found}-CN; convert the file with 'iconv -f ISO-2022-CN-EXT -t UTF-8'"
    return f"{found}; if all of the file is, read it with --encoding {codec}"
