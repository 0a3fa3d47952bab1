"""What is known of model families, which no other file names: facts, each with what holds for all others.

A family is a *model type* of transformers that has a masked-LM class. Most is read from its configuration:
its default one, its own keys, and its `attribute_map` from common names to them. What cannot be read there is
in the tables below. What a model really does is not for this file: self_check.py tries it.
"""

import difflib
from functools import lru_cache
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from pipeline.config.schema import ModelSection
from pipeline.data.corpus import Vocabulary

# They number positions from the padding id + 1; the embeddings before are never used. None of them needs more
# than one segment.
_NUMBERED_FROM_PADDING = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "xmod"),
    *("data2vec-text", "ibert", "longformer", "luke", "mpnet"),
)
# Other names of sizes that attribute maps leave out.
_OTHER_NAMES = {"intermediate_size": ("hidden_dim", "d_inner", "feed_forward_size")}
_HIDDEN_DROPOUTS = ("hidden_dropout_prob", "hidden_dropout", "dropout", "embedding_dropout", "mlp_dropout")
_ATTENTION_DROPOUTS = (
    *("attention_probs_dropout_prob", "attention_dropout"),
    *("local_attention_probs_dropout_prob", "lsh_attention_probs_dropout_prob"),
)
_ROTARY_KEYS = ("rope_parameters", "rope_theta", "rotary_value")
_HEADS_OF_ROWS = ("xlm",)
_ACCEPTED_BUT_NOT_KEPT = {"modernbert": ("global_attn_every_n_layers",)}
_UNLIMITED = 1 << 30  # positions of a model that has no table of them
_SIZES = {  # the recipe's names of what every family has, and the common ones of transformers
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
}


def family_problem(family: str) -> str | None:
    """Why there can be no masked-LM encoder of this model type, and what may be meant; None if there can."""
    known = sorted(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    if family not in known:
        # Spelled like one but for - and _, or near to one.
        plain = {name.replace("_", "-"): name for name in known}
        near = difflib.get_close_matches(family.lower().replace("_", "-"), plain, n=1)
        hint = f"did you mean {plain[near[0]]}?" if near else f"the model types are {', '.join(known)}"
        return f"found {family!r}, for which transformers has no masked-LM class; {hint}"
    default = _default(family)
    lacks = [common for common in ("num_hidden_layers", "hidden_size") if not hasattr(default, common)]
    if lacks:
        return f"found {family!r}, whose configuration has no {' and no '.join(lacks)}; it is no text encoder"
    return decoder_problem(default)


def decoder_problem(config: PretrainedConfig) -> str | None:
    """Why a configuration is not that of an encoder; None if it is."""
    if config.is_encoder_decoder:
        return f"found {config.model_type!r}, which is an encoder with a decoder; only encoders are trained"
    if getattr(config, "is_decoder", False):
        return f"found {config.model_type!r} with is_decoder: true; only encoders are trained"
    return None


def masked_lm_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The transformers class; a KeyError where there is none."""
    found = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    assert isinstance(found, type)
    return found


def modeling_module(family: str) -> str:
    """Name of the module that holds the family's models."""
    name = model_type_to_module_name(family)
    return f"transformers.models.{name}.modeling_{name.rpartition('.')[2]}"


def attention_implementation(config: PretrainedConfig) -> str:
    """How the family computes attention before ours is put in: fused where it can."""
    return "sdpa" if masked_lm_class(config)._supports_sdpa else "eager"


def settings_from_scratch(
    section: ModelSection, vocabulary: Vocabulary, vocabulary_size: int, sequence_length: int
) -> dict[str, Any]:
    """The recipe's settings in the family's own keys, `options` among them; what it lacks is left out.

    Args:
        section: of the recipe.
        vocabulary: of the corpus.
        vocabulary_size: embeddings to make for it.
        sequence_length: positions to make unless the recipe says how many.
    """
    default, known = _default(section.family), known_options(section.family)
    sizes = {_key(default, common): getattr(section, ours) for ours, common in _SIZES.items()}
    settings = {
        "vocab_size": vocabulary_size,
        **{key: value for key, value in sizes.items() if key is not None},
        **_following(default, section.hidden_size, section.num_heads),
        "pad_token_id": vocabulary.pad_id,
        "bos_token_id": vocabulary.cls_id,
        "eos_token_id": vocabulary.sep_id,
        "cls_token_id": vocabulary.cls_id,
        "sep_token_id": vocabulary.sep_id,
        **{key: section.attention_dropout for key in _ATTENTION_DROPOUTS if key in known},
        **{key: section.dropout for key in _HIDDEN_DROPOUTS if key in known},
    }
    positions = section.max_positions or sequence_length
    if "max_position_embeddings" in known:
        settings["max_position_embeddings"] = positions
    if section.family in _NUMBERED_FROM_PADDING:
        settings["max_position_embeddings"] = positions + vocabulary.pad_id + 1
        if "type_vocab_size" in known:
            settings["type_vocab_size"] = 1
    return settings | section.options


def known_options(family: str) -> set[str]:
    """Keys that the family's configuration takes."""
    default = _default(family)
    return {*default.to_dict(), *default.attribute_map, *_ACCEPTED_BUT_NOT_KEPT.get(family, ())}


def recipe_key(family: str, option: str) -> str | None:
    """The key of the recipe's section `model` that says what an option of the family says; None: no other."""
    default = _default(family)
    for ours, common in _SIZES.items():
        if option in (common, _key(default, common)):
            return ours
    if option == "max_position_embeddings":
        return "max_positions"
    if option in _ATTENTION_DROPOUTS:
        return "attention_dropout"
    return "dropout" if option in _HIDDEN_DROPOUTS else None


def missing_settings(section: ModelSection) -> dict[str, str]:
    """Keys of the recipe that ask for what the family does not have, with what it lacks."""
    default, known = _default(section.family), known_options(section.family)
    lacks = {ours: common for ours, common in _SIZES.items() if _key(default, common) is None}
    if "max_position_embeddings" not in known:
        lacks["max_positions"] = "limit of positions"
    for ours, keys, name in (
        ("dropout", _HIDDEN_DROPOUTS, "dropout on hidden states"),
        ("attention_dropout", _ATTENTION_DROPOUTS, "dropout on attention"),
    ):
        if known.isdisjoint(keys) and getattr(section, ours) > 0.0:
            lacks[ours] = name
    return {key: what for key, what in lacks.items() if key in section.model_fields_set}


def usable_positions(config: PretrainedConfig) -> int:
    """Longest input the configuration can take, in tokens."""
    positions = getattr(config, "max_position_embeddings", None)
    return _UNLIMITED if positions is None else positions - first_position(config)


def first_position(config: PretrainedConfig) -> int:
    """The number of a text's first position: 0, or behind that of padding, which is then its id."""
    return config.pad_token_id + 1 if config.model_type in _NUMBERED_FROM_PADDING else 0


def feed_forward_size(config: PretrainedConfig) -> int:
    """Values inside a feed-forward block; four times those outside where the family does not say."""
    key = _key(config, "intermediate_size")
    return 4 * config.hidden_size if key is None else getattr(config, key)


def attention_dropout(config: PretrainedConfig) -> float:
    """Rate of the dropout on attention probabilities; 0 where the family has none."""
    return _highest(config, _ATTENTION_DROPOUTS)


def hidden_dropout(config: PretrainedConfig) -> float:
    """Rate of the dropout on hidden states; the highest where the family has several, 0 if none."""
    return _highest(config, _HIDDEN_DROPOUTS)


def attention_reach(config: PretrainedConfig, layer: int) -> int | None:
    """How far a token sees to either side in a layer; None for all the way."""
    if getattr(config, "layer_types", None) and config.layer_types[layer] == "sliding_attention":
        width = getattr(config, "local_attention", None)
        return getattr(config, "sliding_window", None) if width is None else width // 2
    windows = getattr(config, "attention_window", None)  # one for all layers, or one for each
    if windows is not None:
        return (windows if isinstance(windows, int) else windows[layer]) // 2
    return None


def head_needs_rows(config: PretrainedConfig) -> bool:
    """Whether the prediction head cuts its input along positions, so that it must have them in rows."""
    return config.model_type in _HEADS_OF_ROWS


def has_heads(family: str) -> bool:
    """Whether the family has attention heads, whose number can be set."""
    return _key(_default(family), "num_attention_heads") is not None


def has_rotary_positions(family: str) -> bool:
    """Whether queries and keys are rotated by their positions."""
    return not known_options(family).isdisjoint(_ROTARY_KEYS)


@lru_cache(maxsize=64)
def _default(family: str) -> PretrainedConfig:
    """Not to be changed."""
    return AutoConfig.for_model(family)


def _key(config: PretrainedConfig, common: str) -> str | None:
    """The family's own key for a common one; None where it has none."""
    own, known = config.attribute_map.get(common, common), config.to_dict()
    return next((key for key in (own, *_OTHER_NAMES.get(common, ())) if key in known), None)


def _following(default: PretrainedConfig, hidden_size: int, num_heads: int) -> dict[str, int]:
    """Further sizes that follow from these by default, so that they must follow from others, too."""
    usual, usual_heads = default.hidden_size, getattr(default, "num_attention_heads", None)
    if usual_heads is None:
        return {}
    candidates = {
        "head_dim": (usual // usual_heads, hidden_size // num_heads),
        "num_key_value_heads": (usual_heads, num_heads),
        "embedding_size": (usual, hidden_size),
    }
    return {key: ours for key, (theirs, ours) in candidates.items() if getattr(default, key, None) == theirs}


def _highest(config: PretrainedConfig, keys: tuple[str, ...]) -> float:
    return max((float(getattr(config, key, None) or 0.0) for key in keys), default=0.0)
