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

from tokenizers import Tokenizer

from data_prep.errors import DataError
from data_prep.files import read_json_object, sync_file, write_atomically, write_json_atomically
from data_prep.tokenizing.frame import frame_post_processor, with_frame
from data_prep.tokenizing.identity import content_sha256, is_recorded
from data_prep.tokenizing.opening import TOKENIZER_FILE, open_tokenizer, opened, serialized
from data_prep.tokenizing.special_tokens import (
    CONVENTIONAL,
    ROLES,
    Role,
    implied_tokens,
    mark_special,
    named_tokens,
)

CONFIG_FILE = "tokenizer_config.json"

_REQUIRED: tuple[Role, ...] = (
    "cls",
    "sep",
    "pad",
    "mask",
)  # a name that is not in the vocabulary is an error
_DISTINCT: tuple[tuple[Role, Role], ...] = (
    *(("pad", "cls"), ("pad", "sep"), ("pad", "unk")),
    *(("mask", "pad"), ("mask", "cls"), ("mask", "sep"), ("mask", "unk")),
)
_SHORTEST_INPUT = 3  # cls, a token, sep
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
            if role in tokens and tokens[role] == tokens.get(other):
                raise DataError(
                    f"{self.path / CONFIG_FILE}: {role}_token and {other}_token are both {tokens[other]!r}; "
                    f"add a token to {TOKENIZER_FILE} that nothing else uses, and name it, for example "
                    f'"{role}_token": "{CONVENTIONAL[role][0]}"'
                )
        return ids

    @property
    def model_max_length(self) -> int | None:
        """Tokens that transformers cuts an input to when it is asked to; None for no limit.

        Raises:
            DataError: It is not a number of tokens.
        """
        length = self.config.get("model_max_length")
        if length is None:
            return None
        if isinstance(length, bool) or not isinstance(length, int | float) or length < _SHORTEST_INPUT:
            raise DataError(
                f"{self.path / CONFIG_FILE}: model_max_length is {length!r}; write a number of tokens, "
                f"{_SHORTEST_INPUT} or more, or leave it out"
            )
        return int(length) if length < _NO_LIMIT else None

    @cached_property
    def model_input_names(self) -> list[str]:
        """Inputs of a model: as the configuration says, else with token types if pairs have two of them."""
        named = self.config.get("model_input_names")
        if isinstance(named, list) and named and all(isinstance(name, str) for name in named):
            return named
        types = ["token_type_ids"] if self.num_token_types > 1 else []
        return ["input_ids", *types, "attention_mask"]

    @property
    def num_token_types(self) -> int:
        """One more than the largest token type in a pair of texts."""
        return max(self.tokenizer.encode("a", "a").type_ids) + 1

    def framed(self) -> "TokenizerDirectory":
        """The same if a text becomes `cls text sep`, as in the rows of a corpus; else with that done."""
        cls, sep = self.id_of("cls"), self.id_of("sep")
        inside = self.tokenizer.encode("a", add_special_tokens=False).ids
        pair = self.tokenizer.encode("a", "a").ids
        if self.tokenizer.encode("a").ids == [cls, *inside, sep] and (pair[0], pair[-1]) == (cls, sep):
            return self
        description = json.loads(self.content)
        frame = frame_post_processor((self.special_tokens["cls"], cls), (self.special_tokens["sep"], sep))
        description["post_processor"] = with_frame(description.get("post_processor"), frame)
        content = serialized(description)
        return replace(self, content=content, tokenizer=opened(content))

    def without_token_types(self) -> "TokenizerDirectory":
        """The same for a model that has no embeddings for them."""
        names = [name for name in self.model_input_names if name != "token_type_ids"]
        return replace(self, config={**self.config, "model_input_names": names})

    def content_sha256(self) -> str:
        """Identity of the tokenizer; see identity.content_sha256."""
        return content_sha256(self.tokenizer)

    def is_recorded(self, recorded_sha256: str) -> bool:
        """Whether a manifest recorded this tokenizer."""
        return is_recorded(recorded_sha256, self.tokenizer, self.path / TOKENIZER_FILE)

    def is_that_of(self, recorded_sha256: str, recorded_dir: Path) -> bool:
        """Whether this is the tokenizer that a manifest recorded and that lies in `recorded_dir`.

        The hash of an old manifest is of the file's bytes there, which says nothing of this file's content.
        """
        if self.is_recorded(recorded_sha256):
            return True
        there = open_directory(recorded_dir)
        return there.is_recorded(recorded_sha256) and there.content_sha256() == self.content_sha256()

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
            f"{TOKENIZER_FILE} does not imply one{found}; write for example "
            f'"{role}_token": "{(present or names)[0]}" in {CONFIG_FILE}'
        )


def open_directory(path: Path) -> TokenizerDirectory:
    """Read a tokenizer directory.

    Raises:
        DataError: There is no tokenizer.json, a file cannot be read, the tokenizer fails on words that it
            does not know, or a token that is named is not in the vocabulary.
    """
    content, tokenizer = open_tokenizer(path)
    config = _optional(path / CONFIG_FILE)
    description = json.loads(content)
    tokens = implied_tokens(tokenizer, description)
    for name, named in (
        ("special_tokens_map.json", _optional(path / "special_tokens_map.json")),
        (CONFIG_FILE, config),
    ):
        tokens |= _named_tokens(path / name, named, tokenizer)
    if mark_special(description, tokens.values()):
        content = serialized(description)
        tokenizer = opened(content)
    return TokenizerDirectory(path, content, tokenizer, tokens, config)


def _optional(file: Path) -> dict[str, Any]:
    """The object in a file, empty if there is no file."""
    return read_json_object(file) if file.is_file() else {}


def _named_tokens(file: Path, config: dict[str, Any], tokenizer: Tokenizer) -> dict[Role, str]:
    """The tokens that a file names, as far as they are in the vocabulary.

    Raises:
        DataError: One that is needed is not, or a value is none of a token.
    """
    try:
        named = named_tokens(config)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error
    for role, token in named.items():
        if role in _REQUIRED and tokenizer.token_to_id(token) is None:
            raise DataError(
                f"{file}: {role}_token is {token!r}, which is not in the vocabulary of {TOKENIZER_FILE}; "
                "name a token that is there, or add this one to it"
            )
    return {role: token for role, token in named.items() if tokenizer.token_to_id(token) is not None}


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
