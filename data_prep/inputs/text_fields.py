"""From the fields of a record to the text of its document."""

from collections.abc import Mapping

from data_prep.inputs.damage import DamageReason, listed
from data_prep.inputs.iso_2022 import designation

_SEPARATOR = "\n\n"


class DamagedRecord(Exception):  # noqa: N818 (not an error of ours)
    """A record that gives no document; the message is the detail."""

    def __init__(self, reason: DamageReason, detail: str, start: int = 0) -> None:
        """`reason` as in Damage; `start` is the byte of the record where it begins, if that is known."""
        super().__init__(detail)
        self.reason = reason
        self.start = start


def join_fields(record: Mapping[str, object], text_fields: tuple[str, ...]) -> str:
    """The texts of the fields, with a blank line between them; null, empty and missing ones are left out.

    Raises:
        DamagedRecord: All are missing, or one is not a string, or all are null, or the text holds undecoded
            ISO-2022.
    """
    texts = []
    for name in text_fields:
        value = record.get(name)
        if isinstance(value, str):
            texts.append(value)
        elif value is not None:
            raise not_a_string(name, type(value).__name__)
    if texts:
        return _readable(texts[0] if len(texts) == 1 else _SEPARATOR.join(text for text in texts if text))
    present = [name for name in text_fields if name in record]
    if present:
        raise not_a_string(present[0], "null")
    raise no_text_field(text_fields, tuple(record))


def _readable(text: str) -> str:
    if "\x1b" in text and (sequence := designation(text.encode(errors="replace"))):
        found = f"ESC {sequence[1:].decode()} begins text in ISO-2022"
        raise DamagedRecord("another encoding", f"{found}; decode it before it is written to the field")
    return text


def not_a_string(name: str, found: str) -> DamagedRecord:
    """A text field of another type."""
    return DamagedRecord("text is not a string", f"field {name!r} must be a string, not {found}")


def no_text_field(text_fields: tuple[str, ...], found: tuple[str, ...]) -> DamagedRecord:
    """None of the text fields is there."""
    detail = f"no field {listed(text_fields)}; name one with --text-field; its fields are {listed(found)}"
    return DamagedRecord("no text field", detail)
