"""A small made-up corpus, a tokenizer trained on it, and both command-line ways in."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main

REPOSITORY = Path(__file__).parents[2]
SYLLABLES = ["ka", "ro", "mi", "ten", "sul", "ba", "qui", "dor", "et", "an", "lo", "ves"]


def made_up_documents(count: int, seed: int) -> list[str]:
    """Documents of 5 to 200 words of one to three syllables; no two alike."""
    generator = random.Random(seed)
    documents = []
    for _ in range(count):
        num_words = generator.randint(5, 200)
        words = ["".join(generator.choices(SYLLABLES, k=generator.randint(1, 3))) for _ in range(num_words)]
        documents.append(" ".join(words) + ".")
    return documents


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def documents_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    return write_jsonl(folder / "documents.jsonl", made_up_documents(3000, seed=1))


@pytest.fixture(scope="session")
def messy_file(tmp_path_factory: pytest.TempPathFactory, documents_file: Path) -> Path:
    """The same documents, some of them again, some again with a change, and lines that are broken."""
    generator = random.Random(7)
    texts = [json.loads(line)["text"] for line in documents_file.read_text().splitlines()]
    again = generator.sample(texts, 300)
    changed = [" ".join(["xyzzy", *text.split()[1:]]) for text in generator.sample(texts, 300)]
    lines = [json.dumps({"text": text}) for text in [*texts, *again, *changed, "", "spam " * 200]]
    lines += ["broken", '{"text": 1}', "[]"]
    generator.shuffle(lines)
    path = tmp_path_factory.mktemp("messy") / "messy.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory, documents_file: Path) -> Path:
    out = tmp_path_factory.mktemp("tokenizers") / "bpe"
    assert main(["tokenizer", str(documents_file), "--out", str(out), "--vocab-size", "400"]) == 0
    return out


@pytest.fixture(scope="session")
def made_corpus(tmp_path_factory: pytest.TempPathFactory, documents_file: Path, tokenizer_dir: Path) -> Path:
    """A finished corpus of several shards, made with one worker; not to be changed."""
    out = tmp_path_factory.mktemp("corpora") / "made"
    assert main(shard_arguments(documents_file, tokenizer_dir, out, "--workers", "1")) == 0
    return out


@pytest.fixture
def corpus_copy(made_corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_corpus, tmp_path / "copy"))


def shard_arguments(documents: Path, tokenizer: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--length", "64", "--valid-fraction", "0.05", "--shards", "3"]
    return ["shard", str(documents), "--tokenizer", str(tokenizer), "--out", str(out), *fixed, *more]


@pytest.fixture
def shard_command() -> Callable[..., list[str]]:
    return shard_arguments


@pytest.fixture
def run_cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m data_prep ...` in a process of its own."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "data_prep", *arguments]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, **options)

    return run


@pytest.fixture
def repository() -> Path:
    return REPOSITORY
