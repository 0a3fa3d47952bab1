"""Characters that a tokenizer drops, because it has neither a token nor an unknown token for them."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer

# Letters of many scripts; hardly a vocabulary has all of them.
_RARE_LETTERS = "\u017d\u0416\u03a9\u05d0\u0639\u0939\u1200\u6771\uac00\U00010330"


class Coverage:
    """What of a text leaves a trace in its tokens.

    Attributes:
        is_complete: Every character does, as far as letters of ten scripts can tell.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Try some letters."""
        self._tokenizer = tokenizer
        self._nothing = (self._ids("a "), self._ids("a"))
        self._is_dropped: dict[str, bool] = {}
        self.is_complete = not any(map(self._drops, _RARE_LETTERS))

    def num_dropped(self, texts: Iterable[str]) -> int:
        """How many characters of some texts have no token, white space aside."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return sum(count for character, count in counts.items() if self._drops(character))

    def _drops(self, character: str) -> bool:
        """Whether nothing of a character is left that the normalizer keeps."""
        if character not in self._is_dropped:
            normalizer = self._tokenizer.normalizer
            kept = character if normalizer is None else normalizer.normalize_str(character)
            self._is_dropped[character] = bool(kept.strip()) and self._ids(f"a {character}") in self._nothing
        return self._is_dropped[character]

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids
