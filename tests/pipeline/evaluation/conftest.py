"""Tiny real encoders as Hugging Face directories, with a tokenizer, for tasks that fine-tune."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from data_prep.__main__ import main as data_prep
from data_prep.tokenizing.directory import open_directory
from pipeline.data.corpus import vocabulary_of
from pipeline.encoder.model import build_model
from pipeline.evaluation.encoder import Encoder
from tests.pipeline.tiny_models import tiny_section

LONGEST_INPUT = 32


@pytest.fixture(scope="session")
def tiny_wordpiece(tmp_path_factory: pytest.TempPathFactory, tiny_documents: Path) -> Path:
    """A WordPiece tokenizer directory of 600 entries."""
    path = tmp_path_factory.mktemp("tokenizers") / "wordpiece"
    options = ("--kind", "wordpiece", "--vocab-size", "600")
    assert data_prep(["tokenizer", str(tiny_documents), "--out", str(path), *options]) == 0
    return path


@pytest.fixture(scope="session")
def tiny_encoder(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path, tiny_wordpiece: Path
) -> Callable[..., Encoder]:
    """`tiny_encoder("bert", "wordpiece")`: an encoder of its family for 32 tokens, saved as a user has it."""

    def make(family: str = "roberta", kind: str = "bpe", dropout: float = 0.1) -> Encoder:
        path = tmp_path_factory.mktemp("encoders") / family
        tokenizer_dir = tiny_tokenizer if kind == "bpe" else tiny_wordpiece
        vocabulary = vocabulary_of(open_directory(tokenizer_dir))
        section = tiny_section(family, num_layers=2, dropout=dropout)
        build_model(section, vocabulary, LONGEST_INPUT, seed=0).save_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
        tokenizer.model_max_length = LONGEST_INPUT
        tokenizer.save_pretrained(path)
        return Encoder.open(str(path), torch.device("cpu"))

    return make
