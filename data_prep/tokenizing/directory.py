"""A Hugging Face tokenizer directory, read in one way by preparation, training, evaluation and export.

`tokenizer.json` alone decides which ids a text has. A class that is named beside it (`tokenizer_class`,
`model_type`) does not: from it transformers 5 would rebuild the normalizer, the pre-tokenizer or the
vocabulary. Which token has which role is told by special_tokens.py.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, processors

from data_prep.errors import DataError
from data_prep.files import sync_file, write_atomically, write_json_atomically
from data_prep.tokenizing.identity import content_sha256, is_recorded
from data_prep.tokenizing.special_tokens import CONVENTIONAL, ROLES, Role, implied_tokens, named_tokens

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

_REQUIRED: tuple[Role, ...] = (
    "cls",
    "sep",
    "pad",
    "mask",
)  # a name that is not in the vocabulary is an error
_DISTINCT: tuple[tuple[Role, Role], ...] = (
    *(("pad", "cls"), ("pad", "sep")),
    *(("mask", "pad"), ("mask", "cls"), ("mask", "sep")),
)
_NO_LIMIT = 1_000_000_000  # a model_max_length from here on is transformers' way to say that there is none


class SpecialIds(NamedTuple):
    """What packing needs of a tokenizer; `vocab_size` is one more than the largest id."""

    cls: int
    sep: int
    pad: int
    vocab_size: int


@dataclass(frozen=True)
class TokenizerDirectory:
    """An opened tokenizer directory.

    Attributes:
        path: The directory, for messages.
        content: Text of its tokenizer.json.
        tokenizer: The same, opened; it neither cuts nor pads, and finds no special token in a text.
        special_tokens: The token of every role that has one; all are in the vocabulary.
        config: Content of tokenizer_config.json; empty if there is none.
    """

    path: Path
    content: str
    tokenizer: Tokenizer
    special_tokens: dict[Role, str]
    config: dict[str, Any]

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: an embedding of this size has a row for every token."""
        return max(self.tokenizer.get_vocab().values()) + 1

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that stand for no text, ascending: those with a role or that tokenizer.json calls special."""
        added = self.tokenizer.get_added_tokens_decoder()
        flagged = {token_id for token_id, token in added.items() if token.special}
        return tuple(sorted(flagged | {self.id_of(role) for role in self.special_tokens}))

    def id_of(self, role: Role) -> int:
        """The id of a role's token.

        Raises:
            DataError: No token has this role; the message says what to write.
        """
        if role not in self.special_tokens:
            raise DataError(self._no_token(role))
        token_id = self.tokenizer.token_to_id(self.special_tokens[role])
        assert token_id is not None
        return token_id

    def row_ids(self) -> SpecialIds:
        """The ids that rows of a corpus are made with.

        Raises:
            DataError: A role has no token; or padding or mask have the token of another role, too. The
                embedding of padding gets no gradient, and RoBERTa numbers positions by padding.
        """
        ids = SpecialIds(self.id_of("cls"), self.id_of("sep"), self.id_of("pad"), self.vocab_size)
        tokens = self.special_tokens
        for role, other in _DISTINCT:
            if tokens.get(role) == tokens[other]:
                raise DataError(
                    f"{self.path / CONFIG_FILE}: {role}_token and {other}_token are both {tokens[other]!r}; "
                    f"add a token to {TOKENIZER_FILE} that nothing else uses, and name it, for example "
                    f'"{role}_token": "{CONVENTIONAL[role][0]}"'
                )
        return ids

    @property
    def model_max_length(self) -> int | None:
        """Tokens that transformers cuts an input to when it is asked to; None for no limit."""
        length = self.config.get("model_max_length")
        return int(length) if isinstance(length, int | float) and 0 < length < _NO_LIMIT else None

    @cached_property
    def model_input_names(self) -> list[str]:
        """Inputs of a model: as the configuration says, else with token types if pairs have two of them."""
        named = self.config.get("model_input_names")
        if isinstance(named, list) and named and all(isinstance(name, str) for name in named):
            return named
        has_types = len(set(self.tokenizer.encode("a", "a").type_ids)) > 1
        return ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]

    def framed(self) -> "TokenizerDirectory":
        """The same if a text becomes `cls text sep`, as in the rows of a corpus; else with that done."""
        cls, sep = self.id_of("cls"), self.id_of("sep")
        inside = self.tokenizer.encode("a", add_special_tokens=False).ids
        pair = self.tokenizer.encode("a", "a").ids
        if self.tokenizer.encode("a").ids == [cls, *inside, sep] and (pair[0], pair[-1]) == (cls, sep):
            return self
        tokenizer = _opened(self.content)
        names = {role: self.special_tokens[role] for role in ("cls", "sep")}
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[names["cls"], "$A", names["sep"]],
            pair=[names["cls"], "$A", names["sep"], "$B", names["sep"]],
            special_tokens=list(zip(names.values(), (cls, sep))),
        )
        return replace(self, content=tokenizer.to_str(pretty=True) + "\n", tokenizer=tokenizer)

    def content_sha256(self) -> str:
        """Identity of the tokenizer; see identity.content_sha256."""
        return content_sha256(self.tokenizer)

    def is_recorded(self, recorded_sha256: str) -> bool:
        """Whether a manifest recorded this tokenizer."""
        return is_recorded(recorded_sha256, self.tokenizer, self.path / TOKENIZER_FILE)

    def write(self, target: Path, model_max_length: int | None = None) -> None:
        """Write tokenizer.json, and a tokenizer_config.json with which transformers reads just that file.

        Args:
            target: Directory to write to; made if it is not there.
            model_max_length: Instead of this directory's own.
        """
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(target / TOKENIZER_FILE, self.content)
        length = model_max_length or self.model_max_length
        config = transformers_config(self.tokenizer, self.special_tokens, self.model_input_names, length)
        write_json_atomically(target / CONFIG_FILE, config)
        sync_file(target)

    def _no_token(self, role: Role) -> str:
        names = CONVENTIONAL.get(role, (f"<{role}>",))
        present = [name for name in names if self.tokenizer.token_to_id(name) is not None]
        found = f"; the vocabulary has {' and '.join(map(repr, present))}" if present else ""
        return (
            f"{self.path}: {role}_token is not set in {CONFIG_FILE} or special_tokens_map.json, and "
            f"{TOKENIZER_FILE} does not tell it{found}; write for example "
            f'"{role}_token": "{(present or names)[0]}" in {CONFIG_FILE}'
        )


def open_directory(path: Path) -> TokenizerDirectory:
    """Read a tokenizer directory.

    Raises:
        DataError: There is no tokenizer.json, a file cannot be read, the tokenizer fails on words that it
            does not know, or a token that is named is not in the vocabulary.
    """
    content, tokenizer = _open_tokenizer(path)
    config = _read_json(path / CONFIG_FILE)
    tokens = implied_tokens(tokenizer, json.loads(content))
    for name, named in (
        ("special_tokens_map.json", named_tokens(_read_json(path / "special_tokens_map.json"))),
        (CONFIG_FILE, named_tokens(config)),
    ):
        for role, token in named.items():
            if tokenizer.token_to_id(token) is not None:
                tokens[role] = token
            elif role in _REQUIRED:
                raise DataError(
                    f"{path / name}: {role}_token is {token!r}, which is not in the vocabulary of "
                    f"{TOKENIZER_FILE}; name a token that is there, or add this one to it"
                )
    return TokenizerDirectory(path, content, tokenizer, tokens, config)


def transformers_config(
    tokenizer: Tokenizer,
    special_tokens: dict[Role, str],
    model_input_names: list[str],
    model_max_length: int | None,
) -> dict[str, Any]:
    """A tokenizer_config.json with which transformers 4 and 5 take tokenizer.json as it is."""
    pre_tokenizer = json.loads(tokenizer.to_str())["pre_tokenizer"] or {}
    optional = {
        "model_max_length": model_max_length,
        # transformers 4 makes a pre-tokenizer what the configuration says.
        "add_prefix_space": pre_tokenizer.get("add_prefix_space"),
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{key: value for key, value in optional.items() if value is not None},
        "clean_up_tokenization_spaces": False,
        "model_input_names": model_input_names,
        "padding_side": "right",
        "truncation_side": "right",
        **{f"{role}_token": special_tokens[role] for role in ROLES if role in special_tokens},
    }


def _open_tokenizer(path: Path) -> tuple[str, Tokenizer]:
    """Text and object of a directory's tokenizer.json."""
    file = path / TOKENIZER_FILE
    if not file.is_file():
        raise DataError(
            f"{path}: no tokenizer.json; make one with 'python -m data_prep tokenizer', or save a "
            "Hugging Face tokenizer there with its save_pretrained (names of the Hub are not looked up)"
        )
    try:
        content = file.read_text(encoding="utf-8")
        tokenizer = _opened(content)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{file}: not a tokenizer: {error}") from error
    if not tokenizer.get_vocab():
        raise DataError(f"{file}: its vocabulary is empty; train the tokenizer before you save it")
    if json.loads(content)["model"].get("dropout"):
        raise DataError(
            f"{file}: its model has dropout, so that a text has other tokens every time; write "
            '"dropout": null there'
        )
    try:
        tokenizer.encode("a \U00010330")  # a letter that next to no vocabulary has
    except Exception as error:
        raise DataError(
            f"{file}: the tokenizer fails on text with words that it does not know ({error}); give its model "
            'an unknown token that is in its vocabulary, for example "unk_token": "[UNK]"'
        ) from error
    return content, tokenizer


def _opened(content: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Text that looks like a special token ("<mask>" in a manual) is the ordinary text it is.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file, empty if there is no file; a DataError if it cannot be read."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: found {type(content).__name__}, expected a JSON object")
    return content
