"""Hugging Face directories of small real models of every family, with the tiny corpus's tokenizer."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_prep.format import TOKENIZER_NAME
from pipeline.data.corpus import Vocabulary
from pipeline.encoder.model import build_model
from tests.conftest import TINY_LENGTH
from tests.pipeline.tiny_models import tiny_section


@pytest.fixture
def model_dir(tiny_corpus: Path, vocabulary: Vocabulary, tmp_path: Path) -> Callable[..., Path]:
    """`model_dir("bert")`; inputs may have 64 tokens unless `length` says otherwise."""

    def make(family: str, length: int = 2 * TINY_LENGTH) -> Path:
        model = build_model(tiny_section(family), vocabulary, length, seed=0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
        path = tmp_path / family
        shutil.copytree(tiny_corpus / TOKENIZER_NAME, path)
        model.save_pretrained(str(path))
        return path

    return make
