"""Cutting a very long text where its tokens stay the same.

A tokenizer normalizes a text, splits it into words, and gives each word its tokens, whatever the other
words are. A cut is therefore safe where a word ends anyway, unless normalizer or pre-tokenizer treat the
beginning of a text differently. Some do: they put a space in front (byte-level BPE with `add_prefix_space`,
Metaspace). Leaving out the space at the cut makes up for it. So each cut is tried on the text around it, with
tokenizers for which that is enough.
"""

from collections.abc import Iterator
from itertools import islice

from tokenizers import Tokenizer

from data_prep.tokenizing.locality import is_local

STRETCH_CHARACTERS = 1 << 18  # the library holds some 450 bytes per token until a call is over

_CONTEXT_CHARACTERS = 128  # that a cut is tried on, to either side
_TRIED_CUTS = 32  # of a stretch; a tokenizer that allows none of these hardly allows any


class Stretches:
    """Cuts texts for one tokenizer; a text that cannot be cut is one stretch, however long."""

    def __init__(self, tokenizer: Tokenizer, stretch_characters: int = STRETCH_CHARACTERS) -> None:
        """`stretch_characters` is what a stretch holds at most where it can be cut."""
        self._tokenizer = tokenizer
        self._characters = stretch_characters
        self._can_cut = is_local(tokenizer)

    def of(self, text: str) -> list[str]:
        """Stretches whose tokens, end to end, are the tokens of the text."""
        stretches, start, reach = [], 0, 0
        while self._can_cut and len(text) - max(start, reach) > self._characters:
            reach = max(start, reach) + self._characters
            cut = next(
                (
                    cut
                    for cut in islice(_candidates(text, start, reach), _TRIED_CUTS)
                    if self._is_safe(text, *cut)
                ),
                None,
            )
            if cut is not None:
                stretches.append(text[start : cut[0]])
                start = reach = cut[1]
        return [*stretches, text[start:]]

    def _is_safe(self, text: str, end: int, start: int) -> bool:
        """Whether tokens stay the same if a stretch ends before `end` and the next begins at `start`."""
        before = text[max(0, end - _CONTEXT_CHARACTERS) : end]
        after = text[start : start + _CONTEXT_CHARACTERS]
        whole = before + text[end:start] + after
        return self._words(whole) == [*self._words(before), *self._words(after)] and self._ids(whole) == [
            *self._ids(before),
            *self._ids(after),
        ]

    def _words(self, text: str) -> list[str]:
        """What the model gets, word by word; the whole text if there is no pre-tokenizer."""
        normalizer, pre_tokenizer = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        normal = text if normalizer is None else normalizer.normalize_str(text)
        if pre_tokenizer is None:
            return [normal]
        return [word for word, _ in pre_tokenizer.pre_tokenize_str(normal)]

    def _ids(self, text: str) -> list[int]:
        """Tokens of the text, in which the library also finds added tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def _candidates(text: str, start: int, reach: int) -> Iterator[tuple[int, int]]:
    """Where a stretch might end and the next begin, from `reach` back to behind `start`.

    Before white space, as byte-level BPE and word-level tokenizers split, and with a single space left out.
    """
    for end in range(reach, start, -1):
        if text[end].isspace() and not text[end - 1].isspace():
            yield end, end
            if text[end] == " " and not text[end + 1 : end + 2].isspace():
                yield end, end + 1
