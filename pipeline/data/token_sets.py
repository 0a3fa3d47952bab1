"""Sets of token ids by their text, for patterns that point at delimiters and sentence ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.format import TOKENIZER_NAME

CLS_AND_SEP = ("<cls>", "<sep>")  # stand for the tokenizer's own, however it writes them


def guidance_token_ids(corpus_dir: Path, texts: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """Ids of the tokens with the given texts, by the name of their set.

    A text names every token that is this text: a special token written so ("</s>"), or an ordinary one that
    decodes to it, with or without spaces around either (byte-level BPE has "." and " .").

    Args:
        corpus_dir: whose tokenizer is used.
        texts: name of a set -> texts. Empty: the tokenizer is not opened.

    Raises:
        ValueError: no token has one of the texts.
    """
    if not texts:
        return {}
    from transformers import AutoTokenizer

    path = corpus_dir / TOKENIZER_NAME
    tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    own = dict(zip(CLS_AND_SEP, (tokenizer.cls_token_id, tokenizer.sep_token_id)))
    by_text: dict[str, set[int]] = {}
    for token_id in range(len(tokenizer)):
        # Not how an ordinary token is stored: byte-level BPE writes a byte as some letter.
        by_text.setdefault(str(tokenizer.decode([token_id])).strip(), set()).add(token_id)
    by_text.pop("", None)  # bytes that are no letter alone, and spaces
    sets = {}
    for name, wanted in texts.items():
        ids: set[int] = set()
        for text in wanted:
            found = {own[text]} if text in own else by_text.get(text.strip(), set())
            if not found:
                raise ValueError(f"no token of {path} is {text!r}; write a text that is one token")
            ids |= found
        sets[name] = tuple(sorted(ids))
    return sets
