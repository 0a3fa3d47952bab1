"""Small real models of every family, and padded inputs for them."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.config.schema import ModelSection
from pipeline.data.corpus import Vocabulary
from pipeline.encoder.model import build_model

FAMILIES = ("roberta", "bert", "modernbert")
VOCABULARY = Vocabulary(size=97, pad_id=1, cls_id=0, sep_id=2, mask_id=4, special_ids=(0, 1, 2, 3, 4))
LENGTH = 24
LENGTHS = [24, 9, 17, 2]


def tiny_section(family: str, **settings: Any) -> ModelSection:
    """Three layers of four heads. ModernBERT's are one global and two local ones that reach 4 tokens."""
    options = {"local_attention": 8} if family == "modernbert" else {}
    sizes = {"num_layers": 3, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64}
    no_dropout = {"dropout": 0.0, "attention_dropout": 0.0}
    return ModelSection(family=family, **(sizes | no_dropout | {"options": options} | settings))


def tiny_model(family: str, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """A model that is not at its initialization, where attention is all but uniform."""
    model = build_model(tiny_section(family, **settings), VOCABULARY, LENGTH, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    return model


def tiny_inputs(lengths: list[int] | None = None, length: int = LENGTH) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of sequences with the given numbers of tokens."""
    sizes = torch.tensor(LENGTHS if lengths is None else lengths)
    is_real = torch.arange(length) < sizes[:, None]
    tokens = torch.randint(5, 97, (len(sizes), length), generator=torch.Generator().manual_seed(1))
    return {
        "input_ids": torch.where(is_real, tokens, VOCABULARY.pad_id),
        "attention_mask": is_real.long(),
    }


def save_encoder(model: PreTrainedModel, tokenizer_dir: Path, directory: Path) -> Path:
    """The model as a Hugging Face directory with a tokenizer."""
    model.save_pretrained(str(directory))
    for file in tokenizer_dir.iterdir():
        shutil.copy(file, directory)
    return directory
