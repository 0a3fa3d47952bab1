"""What became of the documents of a part, with a few of those that were left out."""

from pydantic import BaseModel, ConfigDict

from data_prep.selection import digest_of

_SAMPLES_PER_REASON = 3
_SHOWN_CHARACTERS = 2000


class LeftOut(BaseModel):
    """A document or a record that was left out: one of a sample kept for people to look at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str
    where: str
    text: str
    is_damage: bool = False
    order: int  # those with the smallest are kept, whoever found them


class PartReport(BaseModel):
    """What became of the documents of a part; `read` counts them by file, `characters` those tokenized."""

    model_config = ConfigDict(extra="forbid")

    source: int
    read: dict[str, int] = {}
    duplicates: int = 0
    dropped: dict[str, int] = {}
    damaged: dict[str, int] = {}
    samples: list[LeftOut] = []
    tokens: int = 0
    characters: int = 0
    dropped_characters: int = 0
    removed_tokens: int = 0
    warning: str | None = None


class Samples:
    """A few of the documents left out, by reason: those with the smallest digest."""

    def __init__(self) -> None:
        self._kept: dict[str, list[LeftOut]] = {}

    def add(self, reason: str, where: str, text: str, is_damage: bool = False) -> None:
        """Keep this one, if it is among the first; `text` may be a description of damage."""
        order = digest_of(f"{where}\n{text}").high
        kept = self._kept.setdefault(reason, [])
        if len(kept) < _SAMPLES_PER_REASON or order < kept[-1].order:
            shown = text[:_SHOWN_CHARACTERS]
            kept.append(LeftOut(reason=reason, where=where, text=shown, is_damage=is_damage, order=order))
            kept.sort(key=lambda left_out: left_out.order)
            del kept[_SAMPLES_PER_REASON:]

    def kept(self) -> list[LeftOut]:
        """Those kept, by reason."""
        return [left_out for _, kept in sorted(self._kept.items()) for left_out in kept]
