"""Masked language modelling as an Objective: what is drawn, built, measured, checked and compared with."""

import math
from collections.abc import Iterator

from pipeline.config.load import Problem
from pipeline.config.schema import Recipe
from pipeline.data.corpus import Vocabulary
from pipeline.data.masking import MaskDraw, MaskingRule
from pipeline.encoder.model import build_model
from pipeline.objectives.mlm.module import MaskedLanguageModeling
from pipeline.objectives.mlm.settings import MlmSection
from pipeline.objectives.mlm.unigram import held_out_unigram_loss
from pipeline.objectives.protocol import Facts, Metric, Objective

_LARGEST_EXPONENT = 700.0  # of a float64


def _draw(section: MlmSection, vocabulary: Vocabulary) -> MaskDraw:
    return MaskDraw(
        MaskingRule(
            rate=section.mask_rate,
            mask_share=section.mask_share,
            random_share=section.random_share,
            mask_id=vocabulary.mask_id,
            ordinary_ids=vocabulary.ordinary_ids(),
        )
    )


def _build(recipe: Recipe, facts: Facts) -> MaskedLanguageModeling:
    model = build_model(
        recipe.model, facts.vocabulary, facts.positions, recipe.seed, with_weights=facts.with_weights
    )
    return MaskedLanguageModeling(model)


def _check(recipe: Recipe, _facts: Facts) -> Iterator[Problem]:
    section = recipe.objective
    assert isinstance(section, MlmSection)
    if section.mask_share + section.random_share > 1.0:
        yield Problem(
            ("objective.mask_share", "objective.random_share"),
            f"add up to {section.mask_share + section.random_share:g}; at most 1.0 can be replaced",
        )


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, _LARGEST_EXPONENT))


OBJECTIVE = Objective(
    metrics=(
        Metric("loss", "loss", "predicted", "nats per masked token"),
        Metric("perplexity", "loss", "predicted", "", _perplexity, only_held_out=True),
        Metric("accuracy", "correct", "predicted", "share of the masked tokens"),
    ),
    draw=_draw,
    build=_build,
    networks=("model",),
    check=_check,
    baseline=held_out_unigram_loss,
)
