"""Readings of a tokenizer that differ are told: in size, special tokens, ids or offsets."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers, processors

from data_prep.tokenizing.directory import open_directory
from pipeline.tokenizer import first_difference, row_texts, transformers_tokenizer

TEXTS = ["One two THREE", "four"]


def add_token(tokenizer: Any) -> None:
    tokenizer.add_tokens(["<new>"])


def other_role(tokenizer: Any) -> None:
    tokenizer.mask_token = "<unk>"


def lower(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def keep_spaces(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=False
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (add_token, "601 ids instead of 600"),
        (other_role, "mask_token is '<unk>' instead of '<mask>'"),
        (lower, "'One two THREE' becomes"),
        (keep_spaces, "the tokens of 'One two THREE' have other offsets"),
    ],
)
def test_a_difference_is_told(tiny_tokenizer: Path, change: Any, told: str) -> None:
    directory = open_directory(tiny_tokenizer)
    tokenizer = transformers_tokenizer(directory)
    assert first_difference(directory, tokenizer, TEXTS) is None
    change(tokenizer)
    assert told in str(first_difference(directory, tokenizer, TEXTS))


def test_rows_are_decoded_without_special_tokens(tiny_tokenizer: Path) -> None:
    directory = open_directory(tiny_tokenizer)
    rows = [[*directory.tokenizer.encode(text).ids, 1, 1] for text in TEXTS]
    assert row_texts(directory, rows) == TEXTS


def test_a_vocabulary_of_hundreds_of_thousands_is_read_alike(tiny_tokenizer: Path, tmp_path: Path) -> None:
    """Beyond 100,000 ids transformers looks for a tokenizer that it means to mend."""
    directory = open_directory(tiny_tokenizer)
    directory.tokenizer.add_tokens([f"\u2603{number}" for number in range(100_000)])
    big = transformers_tokenizer(directory)
    assert max(big.get_vocab().values()) + 1 == 100_600
    assert [big(text)["input_ids"] for text in TEXTS] == [directory.tokenizer.encode(t).ids for t in TEXTS]
