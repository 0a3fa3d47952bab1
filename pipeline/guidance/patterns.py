"""What a guided head should look at, by name: for every query row i a target distribution p_i over keys.

A pattern names, for a row of a document, either one key (an offset from the row, the document's first or
last token, a random one) or a set of keys given by token ids (delimiters, sentence ends). `targets.py` turns
patterns into tensors for the rows of a micro-batch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NAMED_OFFSETS = {"next": 1, "previous": -1, "self": 0}
_OFFSET_NAME = re.compile(r"offset([+-]\d+)")
TOKEN_PATTERNS = ("delimiters", "sentence_ends")
_RANDOM_NAME = re.compile(r"random-(\d{1,9})")
PATTERN_NAMES = "next, previous, self, first, last, delimiters, sentence_ends, offset+K, offset-K, random-K"


@dataclass(frozen=True)
class OffsetPattern:
    """Row i targets key i + offset of its own document."""

    offset: int


@dataclass(frozen=True)
class EndPattern:
    """Every row targets the first or the last token of its document."""

    last: bool


@dataclass(frozen=True)
class RandomPattern:
    """Row i targets one key, drawn once for all rows of a length from (number, i): a control experiment.

    Rows whose key lies in another document have no target, so that fewer rows are guided than by next where
    documents are short.
    """

    number: int


@dataclass(frozen=True)
class TokenPattern:
    """Every row targets the tokens of its document whose id is in a set, in equal shares."""

    token_ids: tuple[int, ...]


SinglePattern = OffsetPattern | EndPattern | RandomPattern
Pattern = SinglePattern | TokenPattern


def parse_pattern(name: str, token_ids: Mapping[str, Sequence[int]] | None = None) -> Pattern:
    """The pattern of a name such as "next", "offset-3" or "delimiters".

    Args:
        name: as in a recipe.
        token_ids: ids of each of TOKEN_PATTERNS; None leaves the sets empty, to look at names only.

    Raises:
        ValueError: no pattern has this name.
    """
    if name in ("first", "last"):
        return EndPattern(last=name == "last")
    if name in _NAMED_OFFSETS:
        return OffsetPattern(_NAMED_OFFSETS[name])
    if match := _OFFSET_NAME.fullmatch(name):
        return OffsetPattern(int(match[1]))
    if match := _RANDOM_NAME.fullmatch(name):
        return RandomPattern(int(match[1]))
    if name in TOKEN_PATTERNS:
        return TokenPattern(tuple(sorted((token_ids or {}).get(name, ()))))
    raise ValueError(f"unknown pattern {name!r}; the patterns are {PATTERN_NAMES}")


def reach_of(pattern: Pattern, sequence_length: int) -> int:
    """How far from its row a target can lie, in tokens."""
    return abs(pattern.offset) if isinstance(pattern, OffsetPattern) else sequence_length - 1
