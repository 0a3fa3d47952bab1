"""Sets of token ids by their text, for patterns that point at delimiters and sentence ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.format import TOKENIZER_NAME
from data_prep.tokenizing.directory import open_directory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLS_AND_SEP = ("<cls>", "<sep>")  # stand for the tokenizer's own, however it writes them


@dataclass(frozen=True)
class Tokens:
    """The tokens of a tokenizer by their text.

    Attributes:
        path: the tokenizer's directory, for messages.
        by_text: ids of all tokens that are a text, without spaces around it.
    """

    path: Path
    by_text: dict[str, set[int]]

    def ids_of(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Ids of the tokens with one of the given texts, ascending.

        A text names every token that is this text: a special token written so ("</s>"), or an ordinary one
        that decodes to it, with or without spaces around either (byte-level BPE has "." and " .").

        Raises:
            ValueError: no token has one of the texts.
        """
        ids: set[int] = set()
        for text in texts:
            found = self.by_text.get(text.strip(), set())
            if not found:
                raise ValueError(f"no token of {self.path} is {text!r}; write a text that is one token")
            ids |= found
        return tuple(sorted(ids))


def read_tokens(corpus_dir: Path) -> Tokens:
    """Open a corpus's tokenizer and decode its vocabulary."""
    from pipeline.tokenizer import transformers_tokenizer

    path = corpus_dir / TOKENIZER_NAME
    return tokens_of(transformers_tokenizer(open_directory(path)), path)


def tokens_of(tokenizer: "PreTrainedTokenizerBase", path: Path) -> Tokens:
    """Decode the vocabulary of a tokenizer, which lies at `path`, token by token."""
    by_text: dict[str, set[int]] = {}
    for token_id in range(len(tokenizer)):
        # Not how an ordinary token is stored: byte-level BPE writes a byte as some letter.
        by_text.setdefault(str(tokenizer.decode([token_id])).strip(), set()).add(token_id)
    by_text.pop("", None)  # bytes that are no letter alone, and spaces
    own = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    return Tokens(path, by_text | {text: {token_id} for text, token_id in zip(CLS_AND_SEP, own)})


def guidance_token_ids(corpus_dir: Path, texts: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """Ids of the tokens with the given texts, by the name of their set; see `Tokens.ids_of`.

    Args:
        corpus_dir: whose tokenizer is used.
        texts: name of a set -> texts. Empty: the tokenizer is not opened.

    Raises:
        ValueError: no token has one of the texts.
    """
    if not texts:
        return {}
    tokens = read_tokens(corpus_dir)
    return {name: tokens.ids_of(wanted) for name, wanted in texts.items()}
