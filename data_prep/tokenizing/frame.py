"""The frame of a text, `cls text sep`, as the post-processor in a tokenizer.json.

It is written as JSON: the library's own text form reads a token such as "$A" or "x:1" as something else.
"""

from typing import Any

Token = tuple[str, int]  # text and id


def frame_post_processor(cls: Token, sep: Token) -> dict[str, Any]:
    """A template that makes `cls A sep` of a text and `cls A sep B sep` of a pair."""

    def special(token: Token) -> dict[str, Any]:
        return {"SpecialToken": {"id": token[0], "type_id": 0}}

    def text(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    single = [special(cls), text("A"), special(sep)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B"), special(sep)],
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]} for name, number in (cls, sep)
        },
    }


def with_frame(present: dict[str, Any] | None, frame: dict[str, Any]) -> dict[str, Any]:
    """The frame, behind what trims the offsets of byte-level tokens, if the present post-processor does."""
    parts = [present] if present else []
    if present and present["type"] == "Sequence":
        parts = present["processors"]
    kept = [part for part in parts if part["type"] == "ByteLevel"]
    return {"type": "Sequence", "processors": [*kept, frame]} if kept else frame
