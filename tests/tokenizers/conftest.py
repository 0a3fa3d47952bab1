"""Tokenizer directories of every kind, corpora made with them, and an environment with transformers 4."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.__main__ import main
from tests.tokenizers.kinds import TEXTS, make

ROOT = Path(__file__).parents[2]
TRANSFORMERS_4 = ROOT / ".venv" / "transformers4"


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts as JSON lines, and enough of them in other words to train on."""
    path = tmp_path_factory.mktemp("texts") / "docs.jsonl"
    more = [f"{number} maps. {text}" for number in range(12) for text in TEXTS]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, *more]))
    return path


class Prepared:
    """A corpus of the texts, or why there is none.

    Attributes:
        source: the tokenizer directory.
        corpus: where it lies; nothing does if it was refused.
        code: exit code of the preparation.
        told: what it wrote to standard error.
    """

    def __init__(self, source: Path, corpus: Path, code: int, told: str) -> None:
        self.source, self.corpus, self.code, self.told = source, corpus, code, told


@pytest.fixture
def prepare(
    texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Prepared]:
    """A function that makes a kind's directory and a corpus with it, in rows of one document each."""
    # It takes seconds in a process of its own; here transformers is read in this one.
    monkeypatch.setattr("data_prep.shard.warn_of_other_readings", lambda directory: None)

    def run(name: str) -> Prepared:
        source, corpus = tmp_path / "tokenizer", tmp_path / "corpus"
        make(name, source)
        arguments = ["shard", str(texts_file), "--tokenizer", str(source), "--out", str(corpus)]
        rows = ["--length", "256", "--packing", "document", "--valid-fraction", "0.1", "--workers", "1"]
        return Prepared(
            source, corpus, main([*arguments, *rows, "--max-symbols", "1"]), capsys.readouterr().err
        )

    return run


@pytest.fixture(scope="session")
def read_by_transformers_4() -> Callable[[dict[str, list[str]]], dict[str, list[Any]]]:
    """A function that reads directories in a process with transformers 4; see transformers4.py."""
    if not (TRANSFORMERS_4 / "transformers").is_dir():
        pytest.skip(
            f"needs transformers 4 in {TRANSFORMERS_4}; make it with: make .venv/transformers4/.ready"
        )

    def read(texts: dict[str, list[str]]) -> dict[str, list[Any]]:
        process = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("transformers4.py"))],
            input=json.dumps(texts),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TRANSFORMERS_4)},
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout)

    return read
