"""Characters that a tokenizer drops, because it has neither a token nor an unknown token for them.

Only BPE does. The library's other models fail where they have no unknown token, or have one.
"""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers

_BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
_FALLBACK = [f"<0x{byte:02X}>" for byte in range(256)]


class Coverage:
    """What of a text leaves a trace in its tokens.

    Attributes:
        is_complete: Every character does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Look at the model and its vocabulary."""
        self._tokenizer = tokenizer
        self._is_byte_level = (
            b'"ByteLevel"' in tokenizer.pre_tokenizer.__getstate__() if tokenizer.pre_tokenizer else False
        )
        self._is_dropped: dict[str, bool] = {}
        self.is_complete = self._is_complete()

    def num_dropped(self, texts: Iterable[str]) -> int:
        """How many characters of some texts, white space aside, have no token, or not for all their bytes."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return sum(count for character, count in counts.items() if self._drops(character))

    def _is_complete(self) -> bool:
        model = self._tokenizer.model
        if not isinstance(model, models.BPE):
            return True
        has = self._tokenizer.token_to_id
        if model.unk_token is not None and has(model.unk_token) is not None:
            return True
        if model.byte_fallback and all(has(name) is not None for name in _FALLBACK):
            return True
        return self._is_byte_level and all(has(letter) is not None for letter in _BYTE_LEVEL.alphabet())

    def _drops(self, character: str) -> bool:
        """Whether a character that the normalizer keeps loses a byte or leaves nothing."""
        if character not in self._is_dropped:
            normalizer = self._tokenizer.normalizer
            kept = character if normalizer is None else normalizer.normalize_str(character)
            self._is_dropped[character] = bool(kept.strip()) and self._loses(kept)
        return self._is_dropped[character]

    def _loses(self, text: str) -> bool:
        if self._is_byte_level:
            letters = "".join(word for word, _ in _BYTE_LEVEL.pre_tokenize_str(text))
            return any(self._tokenizer.token_to_id(letter) is None for letter in letters)
        return self._ids(f"a {text}") in (self._ids("a "), self._ids("a"))

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids
