"""What is said about a record or a file that cannot be read."""

from typing import Literal, NamedTuple

NAME_IT = "name the file's encoding with --encoding, such as latin-1 or cp1252"
_DETAIL_CHARACTERS = 200
_SHOWN_CHARACTERS = 60


DamageReason = Literal[
    "not UTF-8",
    "not decodable",
    "another encoding",
    "CR line ends",
    "pointer file",
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


class DamagedFile(ValueError):  # noqa: N818 (not an error of ours)
    """A file that gives no documents, or none any more; the message is the detail."""

    def __init__(self, reason: DamageReason, detail: str, line: int = 0) -> None:
        """`reason` as in Damage; `line` counts from 1, 0 is the file as a whole."""
        super().__init__(detail)
        self.reason = reason
        self.line = line


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
    """What a UnicodeDecodeError of one record of UTF-8 says to the user."""
    return f"{_byte(error)} is not UTF-8"


def undecodable(error: UnicodeDecodeError, encoding: str) -> tuple[DamageReason, str]:
    """The reason and the detail of a UnicodeDecodeError of one record of a file of lines."""
    if encoding == "utf-8":
        return "not UTF-8", f"{not_utf8(error)}; {NAME_IT}"
    return "not decodable", f"{_byte(error)} is not {encoding}"


def _byte(error: UnicodeDecodeError) -> str:
    line_start = error.object.rfind(b"\n", 0, error.start) + 1
    return f"byte 0x{error.object[error.start]:02x} at column {error.start - line_start + 1}"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Names for a message: 'a', 'b'."""
    return ", ".join(repr(name) for name in names) or "none"
