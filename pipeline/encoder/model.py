"""Encoders built by transformers: from scratch by family and size, or from a local checkpoint."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from pipeline.config.schema import ModelSection
from pipeline.data.corpus import Vocabulary
from pipeline.encoder.families import attention_implementation, settings_from_scratch


def model_config(section: ModelSection, vocabulary: Vocabulary, sequence_length: int) -> PretrainedConfig:
    """The transformers configuration of the recipe's encoder.

    Raises:
        OSError, ValueError: the checkpoint has no usable config.json, or an option has a wrong value.
    """
    if section.checkpoint is not None:
        return checkpoint_config(section.checkpoint)
    settings = settings_from_scratch(
        section, vocabulary, padded_vocabulary_size(vocabulary.size), sequence_length
    )
    return AutoConfig.for_model(section.family, **settings)


def padded_vocabulary_size(size: int) -> int:
    """Embeddings for `size` tokens, a multiple of 64: what matrix units are fastest with.

    The ones in excess are no token's; training learns to predict them never.
    """
    return -(-size // 64) * 64


def checkpoint_config(checkpoint: str) -> PretrainedConfig:
    """Configuration of a local Hugging Face directory; nothing is fetched, no code of it is run."""
    return AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)


def model_family(section: ModelSection) -> str:
    """The transformers name of the recipe's kind of encoder: its own or its checkpoint's."""
    return section.family if section.checkpoint is None else checkpoint_config(section.checkpoint).model_type


def build_model(
    section: ModelSection,
    vocabulary: Vocabulary,
    sequence_length: int,
    seed: int,
    *,
    with_weights: bool = True,
) -> PreTrainedModel:
    """The encoder in float32; from scratch, weights depend on `seed` alone.

    `with_weights` False leaves a checkpoint's weights where they are: only its sizes count.
    """
    config = model_config(section, vocabulary, sequence_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_network(AutoModelForMaskedLM, config, section.checkpoint if with_weights else None)


def open_network(auto_class: Any, config: PretrainedConfig, checkpoint: str | None) -> PreTrainedModel:
    """A network of `auto_class` in float32, its attention fused if it can be; None: from scratch."""
    options = {"dtype": torch.float32, "attn_implementation": attention_implementation(config)}
    if checkpoint is None:
        return auto_class.from_config(config, **options)
    return auto_class.from_pretrained(
        checkpoint,
        config=config,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        **options,
    )


def has_safetensors(checkpoint: Path) -> bool:
    """Whether a Hugging Face directory keeps its weights as safetensors."""
    return any(checkpoint.glob("*.safetensors"))
