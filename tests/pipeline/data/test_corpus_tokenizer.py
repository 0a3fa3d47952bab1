"""Before a run the tokenizer in a corpus is compared with manifest, rows and what transformers reads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from data_prep.__main__ import main
from data_prep.format import TOKENIZER_NAME, read_manifest
from data_prep.tokenizing.directory import open_directory
from pipeline import tokenizer as readings
from pipeline.data.corpus_tokenizer import tokenizer_problem


@pytest.fixture
def corpus(tiny_corpus: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_corpus, tmp_path / "corpus")
    return tmp_path / "corpus"


def problem_of(corpus: Path) -> str | None:
    return tokenizer_problem(corpus, read_manifest(corpus), open_directory(corpus / TOKENIZER_NAME))


def change(corpus: Path, name: str, by: Callable[[dict[str, Any]], object]) -> None:
    path = corpus / TOKENIZER_NAME / name
    content = json.loads(path.read_text())
    by(content)
    path.write_text(json.dumps(content))


def test_a_corpus_as_it_was_made(corpus: Path) -> None:
    assert problem_of(corpus) is None
    change(corpus, "tokenizer.json", lambda content: None)  # written anew
    assert problem_of(corpus) is None


def test_another_tokenizer(corpus: Path) -> None:
    change(corpus, "tokenizer.json", lambda content: content["pre_tokenizer"].update(add_prefix_space=True))
    assert "is not the tokenizer of the shards" in str(problem_of(corpus))


def test_a_size_that_the_manifest_does_not_have(corpus: Path) -> None:
    path = corpus / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 601}))
    assert "has 600 ids, the manifest says 601" in str(problem_of(corpus))


@pytest.mark.parametrize(("role", "other", "ids"), [("cls", "unk", (3, 0)), ("sep", "unk", (3, 2))])
def test_special_tokens_that_the_rows_do_not_have(
    corpus: Path, role: str, other: str, ids: tuple[int, int]
) -> None:
    change(
        corpus,
        "tokenizer_config.json",
        lambda config: config.update({f"{role}_token": config[f"{other}_token"]}),
    )
    expected = f"its {role}_token has the id {ids[0]}, but in the rows it is {ids[1]}"
    assert expected in str(problem_of(corpus))


def test_padding_that_the_rows_do_not_have(
    tiny_documents: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "padded"
    arguments = ["shard", str(tiny_documents), "--tokenizer", str(tiny_tokenizer), "--out", str(out)]
    assert main([*arguments, "--length", "64", "--packing", "document", "--workers", "1"]) == 0
    assert problem_of(out) is None
    change(out, "tokenizer_config.json", lambda config: config.update(pad_token="a"))
    other = open_directory(out / TOKENIZER_NAME).id_of("pad")
    assert f"its pad_token has the id {other}, but in the rows it is 1" in str(problem_of(out))


def test_a_transformers_that_reads_otherwise(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = readings.transformers_tokenizer

    def wrong(directory: Any) -> Any:
        tokenizer = right(directory)
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        return tokenizer

    monkeypatch.setattr(readings, "transformers_tokenizer", wrong)
    assert 'its tokenizer.json like the library tokenizers: "Hello, World!' in str(problem_of(corpus))
