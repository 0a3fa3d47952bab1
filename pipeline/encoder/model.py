"""Encoders built by transformers: from scratch by family and size, or from a local checkpoint."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from pipeline.config.schema import ModelSection
from pipeline.data.corpus import Vocabulary

_DROPOUT_KEYS = {  # a family's names for the recipe's (dropout, attention_dropout)
    "bert": (["hidden_dropout_prob"], "attention_probs_dropout_prob"),
    "roberta": (["hidden_dropout_prob"], "attention_probs_dropout_prob"),
    "modernbert": (["embedding_dropout", "mlp_dropout"], "attention_dropout"),
}
# RoBERTa and its kin number positions from the padding id + 1; the embeddings before are never used.
_NUMBERED_FROM_PADDING = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "xmod"),
    *("data2vec-text", "ibert", "longformer", "luke", "mpnet"),
)


def model_config(section: ModelSection, vocabulary: Vocabulary, sequence_length: int) -> PretrainedConfig:
    """The transformers configuration of the recipe's encoder.

    Raises:
        OSError, ValueError: the checkpoint has no usable config.json, or an option has a wrong value.
    """
    if section.checkpoint is not None:
        return checkpoint_config(section.checkpoint)
    dropout_keys, attention_dropout_key = _DROPOUT_KEYS[section.family]
    settings = {
        "vocab_size": padded_vocabulary_size(vocabulary.size),
        "num_hidden_layers": section.num_layers,
        "hidden_size": section.hidden_size,
        "num_attention_heads": section.num_heads,
        "intermediate_size": section.intermediate_size,
        "pad_token_id": vocabulary.pad_id,
        "bos_token_id": vocabulary.cls_id,
        "eos_token_id": vocabulary.sep_id,
        "cls_token_id": vocabulary.cls_id,
        "sep_token_id": vocabulary.sep_id,
        attention_dropout_key: section.attention_dropout,
        **dict.fromkeys(dropout_keys, section.dropout),
    }
    positions = section.max_positions or sequence_length
    if section.family == "roberta":
        # RoBERTa numbers positions from the padding id + 1 and has one segment.
        settings |= {"max_position_embeddings": positions + vocabulary.pad_id + 1, "type_vocab_size": 1}
    else:
        settings["max_position_embeddings"] = positions
    return AutoConfig.for_model(section.family, **(settings | section.options))


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


def usable_positions(config: PretrainedConfig) -> int:
    """Longest input the configuration can take, in tokens."""
    reserved = config.pad_token_id + 1 if config.model_type in _NUMBERED_FROM_PADDING else 0
    return config.max_position_embeddings - reserved


def attention_dropout(config: PretrainedConfig) -> float:
    """Rate of the dropout on attention probabilities."""
    return float(getattr(config, _DROPOUT_KEYS[config.model_type][1]))


def hidden_dropout(config: PretrainedConfig) -> float:
    """Rate of the dropout on hidden states; the highest where the family has several."""
    return max(float(getattr(config, key)) for key in _DROPOUT_KEYS[config.model_type][0])


def attention_reach(config: PretrainedConfig, layer: int) -> int | None:
    """How far a token sees to either side in a layer; None for all the way."""
    if getattr(config, "layer_types", None) and config.layer_types[layer] == "sliding_attention":
        return config.local_attention // 2
    return None


def build_model(
    section: ModelSection, vocabulary: Vocabulary, sequence_length: int, seed: int
) -> PreTrainedModel:
    """The encoder in float32 with SDPA attention; from scratch, its weights are a function of `seed`."""
    if section.checkpoint is not None:
        return AutoModelForMaskedLM.from_pretrained(
            section.checkpoint,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
        )
    config = model_config(section, vocabulary, sequence_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)


def has_safetensors(checkpoint: Path) -> bool:
    """Whether a Hugging Face directory keeps its weights as safetensors."""
    return any(checkpoint.glob("*.safetensors"))
