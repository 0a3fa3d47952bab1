"""The tokenizer of a Hugging Face directory under evaluation, whatever its files are."""

import logging
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from data_prep.tokenizing.directory import CONFIG_FILE, TOKENIZER_FILE, TokenizerDirectory, open_directory
from data_prep.tokenizing.probe_texts import PROBE_TEXTS
from pipeline.errors import UsageError
from pipeline.tokenizer import auto_tokenizer, first_difference, knows_words, transformers_tokenizer

logger = logging.getLogger(__name__)

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_SHORTEST_TEXT = 3  # cls, a token, sep
_SHOWN_CHARACTERS = 200  # of a library's message


def encoder_tokenizer(model_dir: Path, *, compare: bool) -> PreTrainedTokenizerBase:
    """That of tokenizer.json, or else what transformers makes of the files that are there.

    Args:
        model_dir: with model and tokenizer.
        compare: warn if transformers, by the class that is named there, would give other tokens.

    Raises:
        UsageError: there is no tokenizer, or it knows no word.
        DataError: tokenizer.json or the files that name special tokens cannot be used.
    """
    if not any(any(model_dir.glob(name)) for name in VOCABULARIES):
        raise UsageError(
            f"{model_dir} has no tokenizer (no {' or '.join(VOCABULARIES)}); save there the one "
            "the model was trained with, with its save_pretrained"
        )
    if (model_dir / TOKENIZER_FILE).is_file():
        directory = open_directory(model_dir)
        if compare:
            _warn_of_other_reading(directory)
            _warn_of_frame(directory)
        tokenizer: PreTrainedTokenizerBase = transformers_tokenizer(directory)
    else:
        tokenizer = auto_tokenizer(str(model_dir))
    # transformers makes a tokenizer that knows nothing of files which its class does not read.
    if not knows_words(tokenizer, PROBE_TEXTS):
        raise UsageError(
            f"{model_dir}: its tokenizer, opened as {type(tokenizer).__name__}, knows no word of "
            f"{PROBE_TEXTS[0]!r} or of texts in other scripts; save there the tokenizer that the model was "
            "trained with, with its save_pretrained"
        )
    return tokenizer


def take_padding_of(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Pad with the model's own padding token, which it has even if its tokenizer does not name it."""
    pad_id = config.pad_token_id
    if isinstance(pad_id, int) and 0 <= pad_id < len(tokenizer):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)


def longest_text(tokenizer: PreTrainedTokenizerBase, model_dir: Path) -> int:
    """Tokens to which the tokenizer's configuration cuts a text; a UsageError if it names no such number."""
    length = tokenizer.model_max_length
    if isinstance(length, bool) or not isinstance(length, int | float) or length < _SHORTEST_TEXT:
        raise UsageError(
            f"{model_dir / CONFIG_FILE}: model_max_length is {length!r}; write a number of tokens, "
            f"{_SHORTEST_TEXT} or more"
        )
    return int(length)


def _warn_of_other_reading(directory: TokenizerDirectory) -> None:
    try:
        auto = auto_tokenizer(str(directory.path))
        difference = first_difference(directory, auto, PROBE_TEXTS, names_all=False)
    except Exception as error:  # code in the directory, or a class that transformers does not have
        difference = f"it cannot open it ({' '.join(str(error).split())[:_SHOWN_CHARACTERS]})"
    if difference is not None:
        logger.warning(
            "%s: tokenizer.json is used. transformers would open the directory otherwise, by the class that "
            "is named there: %s. If the model was trained with that reading, open it so and save it anew "
            "with save_pretrained",
            directory.path,
            difference,
        )


def _warn_of_frame(directory: TokenizerDirectory) -> None:
    tokens = directory.special_tokens
    if "cls" in tokens and "sep" in tokens and directory.framed() is not directory:
        logger.warning(
            "%s: its tokenizer.json does not put %s in front of a text and %s behind it; a head that reads "
            "the first position reads the first word",
            directory.path,
            tokens["cls"],
            tokens["sep"],
        )
