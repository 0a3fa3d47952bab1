"""Replaced-token detection as an Objective: what is drawn, built, measured, checked and compared with."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForMaskedLM

from pipeline.config.guidance_checks import check_guided_heads
from pipeline.config.load import Problem
from pipeline.config.schema import Recipe
from pipeline.data.corpus import Vocabulary
from pipeline.data.masking import MaskDraw, MaskingRule
from pipeline.encoder.linear_cross_entropy import ids_drawn
from pipeline.encoder.replaced_token import detector_class, make_detector
from pipeline.objectives.electra.draw import ElectraDraw
from pipeline.objectives.electra.module import ReplacedTokenDetection
from pipeline.objectives.electra.networks import build_networks, embedding_size, generator_config
from pipeline.objectives.electra.settings import ElectraSection
from pipeline.objectives.protocol import Facts, Metric, Objective


def _draw(section: ElectraSection, vocabulary: Vocabulary) -> ElectraDraw:
    rule = MaskingRule(
        rate=section.mask_rate,
        mask_share=section.mask_share,
        random_share=0.0,
        mask_id=vocabulary.mask_id,
        ordinary_ids=vocabulary.ordinary_ids(),
    )
    return ElectraDraw(MaskDraw(rule))


def _build(recipe: Recipe, facts: Facts) -> ReplacedTokenDetection:
    section = recipe.objective
    assert isinstance(section, ElectraSection)
    discriminator, generator = build_networks(recipe, facts)
    sampled = ids_drawn(facts.vocabulary.special_ids, facts.vocabulary.size)
    return ReplacedTokenDetection(discriminator, generator, section.discriminator_weight, sampled)


def _check(recipe: Recipe, facts: Facts) -> Iterator[Problem]:
    section, config = recipe.objective, facts.config
    assert isinstance(section, ElectraSection)
    if config is None:
        return
    layers = section.num_generator_layers(config.num_hidden_layers)
    if layers > config.num_hidden_layers:
        yield Problem(
            ("objective.generator_layers", "model.num_layers"),
            f"found {layers}; a generator has at most the discriminator's {config.num_hidden_layers} layers",
        )
        return
    try:
        small = generator_config(section, config)
        with torch.device("meta"):  # so that no combination of family and sizes fails later
            detector: Any = detector_class(config)
            detector.from_config(make_detector(copy.deepcopy(config)))
            AutoModelForMaskedLM.from_config(small)
    except Exception as error:  # transformers raises many kinds here
        yield Problem(
            ("objective.kind", "model.family", "objective.generator_width"),
            f"a generator and a discriminator of these sizes cannot be made of {config.model_type!r} "
            f"({type(error).__name__}: {error}); write generator_width: 1.0, or another family",
        )
        return
    if section.tie_embeddings and embedding_size(small) != embedding_size(config):
        yield Problem(
            ("objective.generator_width", "objective.tie_embeddings"),
            f"found {section.generator_width:g} and true, but embeddings of {embedding_size(config)} and "
            f"{embedding_size(small)} features cannot be the same; write generator_width: 1.0 (and fewer "
            "generator_layers), tie_embeddings: false, or a family whose embeddings have a size of their own "
            "(model.family: electra)",
        )
    if "generator" in (recipe.guidance.networks or ()):
        for problem in check_guided_heads(recipe, small, {facts.positions}):
            yield Problem(problem.keys, f"in the generator, {problem.message}")


def entropy(rate: float) -> float:
    """Cross-entropy, in nats, of the best constant prediction of something that happens at this rate."""
    if not 0.0 < rate < 1.0:  # NaN too
        return 0.0 if rate in (0.0, 1.0) else math.nan
    return -rate * math.log(rate) - (1.0 - rate) * math.log1p(-rate)


OBJECTIVE = Objective(
    metrics=(
        Metric("loss", "loss", "tokens", "nats per token, of the discriminator"),
        Metric("constant_loss", "replaced", "tokens", "nats, of the best constant prediction", entropy),
        Metric("accuracy", "right", "tokens", "share of tokens judged rightly"),
        Metric("replaced_rate", "replaced", "tokens", "share of tokens that are replaced"),
        Metric("recall", "found", "replaced", "share of replaced tokens found"),
        Metric("generator_loss", "generator_loss", "predicted", "nats per masked token"),
        Metric("generator_accuracy", "generator_right", "predicted", "share of the masked tokens"),
    ),
    draw=_draw,
    build=_build,
    networks=("discriminator", "generator"),
    check=_check,
)
