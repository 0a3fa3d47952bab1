"""From the fields of a record to the text of its document."""

from collections.abc import Mapping

from data_prep.inputs.damage import DamageReason, listed

_SEPARATOR = "\n\n"


class DamagedRecord(Exception):  # noqa: N818 (not an error of ours)
    """A record that gives no document; the message is the detail."""

    def __init__(self, reason: DamageReason, detail: str) -> None:
        """`reason` as in Damage."""
        super().__init__(detail)
        self.reason = reason


def join_fields(record: Mapping[str, object], text_fields: tuple[str, ...]) -> str:
    """The texts of the fields, with a blank line between them; null, empty and missing ones are left out.

    Raises:
        DamagedRecord: All are missing, or one is not a string, or all are null.
    """
    texts = []
    for name in text_fields:
        value = record.get(name)
        if isinstance(value, str):
            texts.append(value)
        elif value is not None:
            raise not_a_string(name, type(value).__name__)
    if len(texts) == 1:
        return texts[0]
    if texts:
        return _SEPARATOR.join(text for text in texts if text)
    present = [name for name in text_fields if name in record]
    if present:
        raise not_a_string(present[0], "null")
    raise no_text_field(text_fields, tuple(record))


def not_a_string(name: str, found: str) -> DamagedRecord:
    """A text field of another type."""
    return DamagedRecord("text is not a string", f"field {name!r} must be a string, not {found}")


def no_text_field(text_fields: tuple[str, ...], found: tuple[str, ...]) -> DamagedRecord:
    """None of the text fields is there."""
    detail = f"no field {listed(text_fields)}; name one with --text-field; its fields are {listed(found)}"
    return DamagedRecord("no text field", detail)
