"""A tokenizer directory as transformers' object, and whether transformers itself reads it alike."""

from collections.abc import Iterable, Sequence

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data_prep.tokenizing.directory import TokenizerDirectory
from data_prep.tokenizing.probe_texts import shown_tokens
from data_prep.tokenizing.special_tokens import ROLES


def transformers_tokenizer(directory: TokenizerDirectory) -> PreTrainedTokenizerFast:
    """The tokenizer.json of a directory, with padding and truncation at the end of a text.

    Heads and embeddings read a text from its first position, so nothing may stand before it. Text that looks
    like a special token is ordinary text, as in preparation.
    """
    length = directory.model_max_length
    return PreTrainedTokenizerFast(
        tokenizer_object=directory.tokenizer,
        **{f"{role}_token": token for role, token in directory.special_tokens.items()},
        **({} if length is None else {"model_max_length": length}),
        model_input_names=directory.model_input_names,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        padding_side="right",
        truncation_side="right",
    )


def auto_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """A directory as transformers opens it by the class that is named there; no code of it is run."""
    return AutoTokenizer.from_pretrained(
        path,
        local_files_only=True,
        trust_remote_code=False,
        split_special_tokens=True,
        padding_side="right",
        truncation_side="right",
    )


def first_difference(
    directory: TokenizerDirectory,
    other: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    names_all: bool = True,
) -> str | None:
    """How another reading of a tokenizer differs in size, special tokens, ids or offsets; None if equal.

    Args:
        directory: Whose tokenizer.json is compared, special tokens added by its post-processor.
        other: What transformers made of it.
        texts: To tokenize.
        names_all: whether a role counts for which `other` names no token.
    """
    sizes = directory.vocab_size, max(other.get_vocab().values()) + 1
    if sizes[0] != sizes[1]:
        return f"{sizes[1]:,} ids instead of {sizes[0]:,}"
    for role in ROLES:
        mine, theirs = directory.special_tokens.get(role), getattr(other, f"{role}_token")
        # Only what this project names counts; classes name further ones, such as cls as bos.
        if mine is not None and mine != theirs and (names_all or theirs is not None):
            return f"{role}_token is {theirs!r} instead of {mine!r}"
    for text in texts:
        ours = directory.tokenizer.encode(text)
        found = other(text, return_offsets_mapping=other.is_fast, return_attention_mask=False)
        if ours.ids != found["input_ids"]:
            tokens = list(other.convert_ids_to_tokens(found["input_ids"]))
            shown = [" ".join(some[shown_tokens(ours.tokens, tokens)]) for some in (tokens, ours.tokens)]
            return f"{_shortened(text)!r} becomes '{shown[0]}' instead of '{shown[1]}'"
        if other.is_fast and ours.offsets != [tuple(pair) for pair in found["offset_mapping"]]:
            return f"the tokens of {_shortened(text)!r} have other offsets"
    return None


def knows_words(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> bool:
    """Whether some text has a token that is neither special nor the unknown one.

    transformers makes a tokenizer that knows nothing of files that its class does not read.
    """
    special = set(tokenizer.all_special_ids)
    return any(set(tokenizer(text, add_special_tokens=False)["input_ids"]) - special for text in texts)


def row_texts(directory: TokenizerDirectory, rows: Iterable[Sequence[int]]) -> list[str]:
    """Rows of token ids as text, special tokens left out."""
    return [directory.tokenizer.decode(list(row), skip_special_tokens=True) for row in rows]


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
