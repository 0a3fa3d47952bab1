"""Opening the files of a tokenizer directory, and refusing what cannot be a tokenizer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from data_prep.errors import DataError
from data_prep.tokenizing.identity import repeated_id

TOKENIZER_FILE = "tokenizer.json"


def open_tokenizer(path: Path) -> tuple[str, Tokenizer]:
    """Text and object of a directory's tokenizer.json."""
    file = path / TOKENIZER_FILE
    if not file.is_file():
        raise DataError(
            f"{path}: no tokenizer.json; make one with 'python -m data_prep tokenizer', or save a "
            "Hugging Face tokenizer there with its save_pretrained (names of the Hub are not looked up)"
        )
    with _refusing(f"{file}: not a tokenizer: {{}}"):
        content = file.read_text(encoding="utf-8")
        tokenizer = opened(content)
    if not tokenizer.get_vocab():
        raise DataError(f"{file}: its vocabulary is empty; train the tokenizer before you save it")
    description = json.loads(content)
    if repeated := repeated_id(description):
        first, second, token_id = repeated
        raise DataError(
            f"{file}: {first!r} and {second!r} both have the id {token_id}; train the tokenizer again, or "
            "give one of them an id of its own"
        )
    if description["model"].get("dropout"):
        raise DataError(
            f"{file}: its model has dropout, so that a text has other tokens every time; write "
            '"dropout": null there'
        )
    with _refusing(f"{file}: its post-processor fails ({{}}); save the tokenizer anew without it"):
        tokenizer.encode("")
        tokenizer.encode("", "")
    with _refusing(
        f"{file}: the tokenizer fails on text with words that it does not know ({{}}); give its model an "
        'unknown token that is in its vocabulary, for example "unk_token": "[UNK]"'
    ):
        tokenizer.encode("a \U00010330")  # a letter that few vocabularies have
    return content, tokenizer


@contextmanager
def _refusing(message: str) -> Iterator[None]:
    """Whatever the library raises becomes a DataError with `message`, the reason put in the place of {}.

    It raises nothing narrower than Exception, and its panics are not even that.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(message.replace("{}", reason)) from error


def serialized(description: dict[str, Any]) -> str:
    """The text of a tokenizer.json with this content."""
    return json.dumps(description, indent=2, ensure_ascii=False) + "\n"


def opened(content: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json's text, which neither cuts nor pads, and finds no special tokens."""
    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Text that looks like a special token ("<mask>" in a manual) is the ordinary text it is.
    tokenizer.encode_special_tokens = True
    return tokenizer
