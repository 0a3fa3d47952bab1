"""From the keys of a recipe to the guidance of its run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.build import (
    Corpus,
    build_batches,
    build_guidance_schedule,
    build_pretraining_module,
    open_phases,
)
from pipeline.config.schema import Recipe
from pipeline.encoder.families import usable_positions
from pipeline.guidance.allocation import Allocation, allocate, head_table
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.patterns import TokenPattern
from pipeline.guidance.row_terms import LossForm
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.schedule import GuidanceSchedule
from tests.pipeline.data.test_batches import corrupted

MakeRecipe = Callable[..., Recipe]


def guidance_of(recipe: Recipe) -> RunGuidance:
    (guidance,) = build_pretraining_module(recipe, Corpus.open(recipe.corpus)).regularizers
    assert isinstance(guidance, RunGuidance)
    return guidance


def guide_of(recipe: Recipe) -> AttentionGuide:
    return guidance_of(recipe).guide


def allocation_of(recipe: Recipe) -> Allocation:
    guidance = recipe.guidance
    return allocate(head_table(guidance.heads, guidance.layers, recipe.model.num_layers))


def schedule_of(recipe: Recipe, sequence_length: int = 64) -> GuidanceSchedule:
    return build_guidance_schedule(recipe, allocation_of(recipe), sequence_length)


# Heads and loss


def test_guide_has_the_recipes_heads_in_every_layer(make_recipe: MakeRecipe) -> None:
    guide = guide_of(make_recipe({"guidance.heads": {"previous": 1, "first": 2}}))

    assert [[(g.name, g.first_head, g.end_head) for g in groups] for groups in guide.allocation.layers] == [
        [("previous", 0, 1), ("first", 1, 3)]
    ] * 2


def test_guide_has_heads_only_in_the_layers_named(make_recipe: MakeRecipe) -> None:
    guide = guide_of(make_recipe({"guidance.layers": [1], "guidance.heads": {"next": 1}}))

    assert guide.allocation.guided_layers == (1,)


def test_patterns_of_tokens_have_the_tokens_of_the_corpus(make_recipe: MakeRecipe) -> None:
    heads = {"0-0": {"delimiters": 1}, "1-1": {"sentence_ends": 1}}
    recipe = make_recipe({"guidance.heads": heads, "guidance.delimiters": ["<sep>"]})

    delimiters, sentence_ends = guide_of(recipe).allocation.patterns

    vocabulary = Corpus.open(recipe.corpus).vocabulary
    assert delimiters == TokenPattern((vocabulary.sep_id,))
    assert len(sentence_ends.token_ids) >= 3
    assert not set(sentence_ends.token_ids) & set(vocabulary.special_ids)


@pytest.mark.parametrize(
    ("settings", "form", "as_published"),
    [
        ({}, LossForm(name="cross_entropy", keep=1.0), False),
        ({"error": "squared"}, LossForm(name="squared", keep=1.0), False),
        ({"alpha": 100.0}, LossForm(name="squared", keep=1.0), False),
        ({"normalization": "authors"}, LossForm(name="squared", keep=0.75), True),
    ],
)
def test_error_and_conventions_are_the_recipes(
    make_recipe: MakeRecipe, settings: dict[str, Any], form: LossForm, as_published: bool
) -> None:
    """Attention dropout is part of the published loss alone."""
    recipe = make_recipe({"guidance": {"heads": {"next": 1}, **settings}, "model.attention_dropout": 0.25})

    guide = guide_of(recipe)

    assert (guide.form, guide.as_published) == (form, as_published)


def test_normalization_reaches_the_loss(make_recipe: MakeRecipe) -> None:
    """By "mean" all heads weigh the same, by "authors" all pattern types."""
    shares = {}
    for normalization in ("mean", "authors"):
        recipe = make_recipe({"guidance": {"heads": {"next": 1, "first": 3}, "normalization": normalization}})
        shares[normalization] = guidance_of(recipe).loss.shares[0].tolist()

    assert shares["mean"] == pytest.approx([1 / 8] * 4)
    assert shares["authors"] == pytest.approx([1 / 4, 1 / 12, 1 / 12, 1 / 12])


# Strength


@pytest.mark.parametrize(
    ("settings", "weight"),
    [
        ({}, 0.1),
        ({"weight": 0.5}, 0.5),
        ({"weight": 0.0}, 0.0),
        ({"error": "squared"}, 7.0 * 64 / 512),
        ({"error": "squared", "weight": 3.0}, 3.0 * 64 / 512),
        ({"normalization": "authors"}, 7.0 * 64 / 512),
        ({"alpha": 100.0}, 100.0 * 4 / 64),  # 2 layers of 2 types
        ({"alpha": 100.0, "layers": [1]}, 100.0 * 2 / 64),
        ({"alpha": 100.0, "normalization": "authors"}, 100.0 * 4 / 64),
        ({"method": "bias"}, 0.0),
    ],
)
def test_weight_is_for_rows_of_this_length(
    make_recipe: MakeRecipe, settings: dict[str, Any], weight: float
) -> None:
    schedule = schedule_of(make_recipe({"guidance": {"heads": {"next": 1, "first": 2}, **settings}}))

    assert schedule.weight == pytest.approx(weight)


@pytest.mark.parametrize(
    ("settings", "bias"),
    [
        ({"method": "bias"}, 8.0),
        ({"method": "bias", "bias": 2.5}, 2.5),
        ({"method": "bias", "heads": {}}, 0.0),
        ({"method": "loss"}, 0.0),
    ],
)
def test_bias_acts_only_by_its_method(make_recipe: MakeRecipe, settings: dict[str, Any], bias: float) -> None:
    assert schedule_of(make_recipe({"guidance": {"heads": {"next": 1}, **settings}})).bias == bias


def test_bias_changes_the_steps_until_it_is_zero(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"guidance": {"heads": {"next": 1, "delimiters": 1}, "method": "bias", "end": 0.75}})
    corpus = Corpus.open(recipe.corpus)
    module = build_pretraining_module(recipe, corpus)

    losses = {}
    for step in (0, 8, 9, 11):
        batch = corpus.batcher(recipe, "train").batch(np.arange(4), 0)
        module.prepare(batch, step)
        losses[step] = module(batch, step, batch.counts).terms["mlm"].sum.item()

    assert losses[9] == losses[11]
    assert len(set(losses.values())) == 3


# Documents


@pytest.mark.parametrize("split", ["train", "valid"])
def test_batches_stay_inside_documents_where_the_recipe_says_so(make_recipe: MakeRecipe, split: str) -> None:
    for across in (True, False):
        recipe = make_recipe({"data.attend_across_documents": across})

        batch = Corpus.open(recipe.corpus).batcher(recipe, split).batch(np.arange(8), 0)

        if across:
            assert batch.borders is None
        else:
            assert batch.borders.tolist() == batch.documents.borders().tolist()
            assert batch.to(torch.device("cpu")).borders is batch.borders


# When and where


def test_schedule_is_the_recipes_in_steps(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        {
            "seed": 5,
            "model.num_layers": 4,
            "train.num_steps": 200,
            "guidance": {
                "heads": {"1-": {"next": 1}},
                "plateau": 0.25,
                "end": 120,
                "dense": 0.1,
                "layers_per_step": 0.5,
                "layer_weights": [1.0, 2.0, 3.0],
                "row_stride": 4,
            },
        }
    )

    schedule = schedule_of(recipe)

    assert (schedule.plateau_steps, schedule.end_step, schedule.dense_steps) == (50, 120, 20)
    assert schedule.layers == (1, 2, 3)
    assert schedule.layers_per_step == 2  # half of three, rounded up
    assert (schedule.layer_weights, schedule.row_stride, schedule.seed) == ((1.0, 2.0, 3.0), 4, 5)


def test_schedule_of_a_recipe_that_says_nothing(make_recipe: MakeRecipe) -> None:
    schedule = schedule_of(make_recipe({"guidance": {"heads": {"next": 1}}, "train.num_steps": 200}))

    assert (schedule.plateau_steps, schedule.end_step) == (100, 200)
    assert schedule.dense_steps is None  # until the patterns have formed
    assert (schedule.layers_per_step, schedule.layer_weights, schedule.row_stride) == (1, None, 1)


def test_formation_is_judged_by_the_recipes_mass(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"guidance.formed_mass": 0.375})

    assert guidance_of(recipe).formation.formed_mass == 0.375


# Phases


def test_model_takes_the_longest_rows_of_any_phase(
    make_recipe: MakeRecipe, short_corpus: Path, tiny_corpus: Path
) -> None:
    for own, other in ((tiny_corpus, short_corpus), (short_corpus, tiny_corpus)):
        phase = {"until": 3, "corpus": str(other)}
        recipe = make_recipe({"corpus": str(own), "curriculum": [phase]})
        module = build_pretraining_module(recipe, Corpus.open(recipe.corpus))
        assert usable_positions(module.model.config) == 32


def test_weight_is_that_of_the_rows_in_each_phase(make_recipe: MakeRecipe) -> None:
    """The weight of a squared error is scaled by T/512; alpha is one of rows as they are."""
    for guidance, weights in (
        ({"weight": 8.0, "error": "squared"}, [0.25, 0.25, 0.5]),
        ({"weight": 0.04}, [0.04, 0.04, 0.04]),
        ({"weight": ..., "alpha": 16.0}, [2.0, 2.0, 1.0]),  # two layers of one type
    ):
        overrides = {f"guidance.{key}": value for key, value in guidance.items()}
        recipe = make_recipe({"guidance.heads": {"next": 1}, **overrides})
        schedule = build_guidance_schedule(recipe, allocation_of(recipe), 32, [(2, 16), (4, 16)])
        assert [schedule.at(step).weight for step in (0, 3, 4)] == pytest.approx(weights)


def test_corpora_with_the_same_content_share_an_order(
    make_recipe: MakeRecipe, short_corpus: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(short_corpus, tmp_path / "copy")
    curriculum = [
        {"until": 3, "corpus": str(short_corpus), "global_batch_size": 4},
        {"until": 5, "corpus": str(copy)},
    ]
    recipe = make_recipe({"curriculum": curriculum})

    phases, manifests = open_phases(recipe)

    assert [phase.corpus for phase in phases] == [str(short_corpus), str(short_corpus), recipe.corpus]
    assert list(manifests) == [str(short_corpus), recipe.corpus]
    batches = build_batches(recipe, Corpus.open(recipe.corpus).vocabulary, 1, 0)
    assert [part.place_of_step_zero for part in batches.parts] == [0, 12 - 24, -40]
    assert [batch.input_ids.shape for batch in batches[2]] == [(4, 16)]
    assert [batch.input_ids.shape for batch in batches[5]] == [(4, 32), (4, 32)]


# Scarce data


def test_a_share_of_the_rows_is_trained_and_all_held_out_rows_are_looked_at(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"data.train_share": 0.1, "train.num_steps": 40})
    corpus = Corpus.open(recipe.corpus)
    whole = corpus.batcher(make_recipe(), "train").split.num_rows

    batches = build_batches(recipe, corpus.vocabulary, world_size=1, rank=0)

    trained = np.concatenate([batches.part_of(step).rows(step) for step in range(40)])
    assert set(trained) == set(range(round(0.1 * whole)))
    full, part = (corpus.batcher(made, "valid").split.num_rows for made in (make_recipe(), recipe))
    assert full == part


def test_held_out_masks_do_not_depend_on_the_seed_and_training_masks_do(make_recipe: MakeRecipe) -> None:
    rows = np.arange(8)

    def masked(split: str, seed: int) -> torch.Tensor:
        recipe = make_recipe({"seed": seed})
        return corrupted(Corpus.open(recipe.corpus).batcher(recipe, split).batch(rows, 0))

    assert torch.equal(masked("valid", 1), masked("valid", 2))
    assert not torch.equal(masked("train", 1), masked("train", 2))
