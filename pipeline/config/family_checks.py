"""Rules about the model's family: whether there is such a one, its own keys, and what it can do here.

What a family can do is tried with a small twin of the recipe's model, see pipeline/encoder/self_check.py; the
model itself is tried when training begins.
"""

import difflib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from pipeline.config.load import Problem
from pipeline.config.schema import ModelSection, Recipe
from pipeline.data.corpus import Vocabulary
from pipeline.encoder.families import (
    attention_implementation,
    family_problem,
    has_heads,
    known_options,
    missing_settings,
    recipe_key,
)
from pipeline.encoder.model import model_config
from pipeline.encoder.self_check import check_documents, check_predictions, check_taps
from pipeline.errors import UserError

_NOT_OPTIONS = {  # settings of transformers that the recipe says elsewhere, or that make no encoder
    "is_decoder": "an encoder attends both ways; leave it out",
    "add_cross_attention": "an encoder has no cross-attention; leave it out",
    **dict.fromkeys(
        ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"),
        "the corpus's tokenizer decides it; leave it out",
    ),
}
_TWIN_LAYERS, _TWIN_LENGTH = 2, 16
_TWIN_VOCABULARY = Vocabulary(size=64, pad_id=1, cls_id=0, sep_id=2, mask_id=3, special_ids=(0, 1, 2, 3))


def check_family(section: ModelSection) -> list[Problem]:
    """Problems of a model from scratch that can be told without building it."""
    if (problem := family_problem(section.family)) is not None:
        return [Problem(("model.family",), problem)]
    problems = [*_check_options(section), *_check_missing(section)]
    if has_heads(section.family) and section.hidden_size % section.num_heads:
        problems.append(
            Problem(
                ("model.hidden_size", "model.num_heads"),
                f"{section.hidden_size} cannot be split over {section.num_heads} heads; write a multiple",
            )
        )
    return problems


def check_twin(recipe: Recipe) -> list[Problem]:
    """Problems that a small model of the recipe's family has; none for a checkpoint.

    None, too, where options that fit the recipe's sizes do not fit the twin's.
    """
    section = recipe.model
    if section.checkpoint is not None:
        return []
    head_size = section.hidden_size // section.num_heads
    sizes = {"num_layers": min(section.num_layers, _TWIN_LAYERS), "num_heads": 2, "max_positions": None}
    sizes |= {"hidden_size": 2 * head_size, "intermediate_size": 4 * head_size}
    try:
        config = model_config(section.model_copy(update=sizes), _TWIN_VOCABULARY, _TWIN_LENGTH)
        with torch.random.fork_rng(devices=[]):
            twin = AutoModelForMaskedLM.from_config(
                config, attn_implementation=attention_implementation(config), dtype=torch.float32
            )
    except Exception:  # of many kinds, all about values that the recipe's own sizes may well suit
        return []
    _move_weights(twin)
    checks: list[tuple[Callable[[PreTrainedModel], None], tuple[str, ...], str]] = [
        (partial(check_predictions, is_trained=True), ("model.family",), "write another family")
    ]
    if recipe.guidance.heads:  # they are looked at also where nothing weighs them
        advice = "leave guidance out to train without it"
        checks.append((check_taps, ("guidance.heads", "model.family"), advice))
    if not recipe.data.attend_across_documents:
        advice = "write attend_across_documents: true"
        checks.append((check_documents, ("data.attend_across_documents", "model.family"), advice))
    for check, keys, advice in checks:
        try:
            check(twin)
        except UserError as error:
            return [Problem(keys, f"found {section.family!r}; {error}; {advice}")]
    return []


@torch.no_grad()
def _move_weights(model: PreTrainedModel) -> None:
    """Away from where they begin, which may be zeros that hide what a model does."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def _check_options(section: ModelSection) -> Iterator[Problem]:
    known = known_options(section.family)
    for option, value in section.options.items():
        keys = (f"model.options.{option}",)
        if option in _NOT_OPTIONS:
            yield Problem(keys, _NOT_OPTIONS[option])
        elif (ours := recipe_key(section.family, option)) is not None:
            yield Problem(keys, f"found {value!r}; write model.{ours} instead")
        elif option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield Problem(keys, f"not a setting of the {section.family} family{hint}")


def _check_missing(section: ModelSection) -> Iterator[Problem]:
    for key, what in missing_settings(section).items():
        yield Problem(
            (f"model.{key}",),
            f"found {getattr(section, key)}, but the {section.family} family has no {what}; leave it out",
        )
