"""Replaced-token detection as an Objective: what is drawn, built, measured, checked and compared with."""

import math
from collections.abc import Iterator

from transformers import PretrainedConfig

from pipeline.config.load import Problem
from pipeline.config.schema import Recipe
from pipeline.data.corpus import Vocabulary
from pipeline.data.masking import MaskDraw, MaskingRule
from pipeline.encoder.linear_cross_entropy import ids_drawn
from pipeline.guidance.allocation import head_table
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
    small = generator_config(section, config)
    if section.tie_embeddings and embedding_size(small) != embedding_size(config):
        yield Problem(
            ("objective.generator_width", "objective.tie_embeddings"),
            f"found {section.generator_width:g} and true, but embeddings of {embedding_size(config)} and "
            f"{embedding_size(small)} features cannot be the same; write generator_width: 1.0 (and fewer "
            "generator_layers), tie_embeddings: false, or a family whose embeddings have a size of their own "
            "(model.family: electra)",
        )
    if "generator" in (recipe.guidance.networks or ()):
        yield from _check_guided_generator(recipe, small)


def _check_guided_generator(recipe: Recipe, small: PretrainedConfig) -> Iterator[Problem]:
    """The heads of the recipe must be there in the smaller network, too."""
    guidance, num_layers = recipe.guidance, small.num_hidden_layers
    try:
        table = head_table(guidance.heads, guidance.layers_of(num_layers), num_layers)
    except ValueError as error:
        yield Problem(
            ("guidance.heads", "objective.generator_layers"),
            f"the generator has {num_layers} layers: {error}",
        )
        return
    most = max((sum(counts.values()) for counts in table), default=0)
    if most > small.num_attention_heads:
        yield Problem(
            ("guidance.heads", "objective.generator_width"),
            f"{most} guided heads in a layer, but the generator's have {small.num_attention_heads}; write "
            "fewer heads, a larger generator_width, or networks: [discriminator]",
        )


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
