"""What is said about a record or a file that cannot be read."""

from typing import Literal, NamedTuple

TO_UTF8 = "convert the file, for example with 'iconv -f LATIN1 -t UTF-8'"
_DETAIL_CHARACTERS = 200
_SHOWN_CHARACTERS = 60


DamageReason = Literal[
    "not UTF-8",
    "broken JSON",
    "broken row",
    "no text field",
    "text is not a string",
    "record too large",
    "broken file",
]


class Damage(NamedTuple):
    """A record, or the rest of a file, that gives no document.

    Attributes:
        reason: What kind of damage, to be counted by.
        where: File and line, row or byte.
        detail: What was found and what to write instead, on one line.
    """

    reason: DamageReason
    where: str
    detail: str


def damage(reason: DamageReason, where: str, detail: object) -> Damage:
    """A Damage whose detail fits on one line, whatever was found in the file."""
    return Damage(reason, where, one_line(str(detail), _DETAIL_CHARACTERS))


def shown(text: str) -> str:
    """The beginning of what was found, fit for a message."""
    return one_line(text, _SHOWN_CHARACTERS)


def one_line(text: str, max_characters: int) -> str:
    """`text` shortened, with white space and what a terminal cannot show made harmless."""
    cut = text[: max_characters + 1]
    cut = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in cut)
    return cut if len(cut) <= max_characters else cut[: max_characters - 3] + "..."


def not_utf8(error: UnicodeDecodeError) -> str:
    """What a UnicodeDecodeError of one record says to the user."""
    line_start = error.object.rfind(b"\n", 0, error.start) + 1
    column = error.start - line_start + 1
    return f"byte 0x{error.object[error.start]:02x} at column {column} is not UTF-8; {TO_UTF8}"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Names for a message: 'a', 'b'."""
    return ", ".join(repr(name) for name in names) or "none"
