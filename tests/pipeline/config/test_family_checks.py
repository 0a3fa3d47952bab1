"""Families in recipes: names, keys that a family lacks, and what it cannot do here."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.config.schema import Recipe
from tests.pipeline.config.checking import assert_told, check, only_problem

MakeRecipe = Callable[..., Recipe]
UNGUIDED: dict[str, Any] = {"guidance.heads": {}, "guidance.weight": ...}


@pytest.mark.parametrize("family", ["distilbert", "electra", "xlm-roberta", "eurobert"])
def test_other_families_are_fine_also_with_guidance(make_recipe: MakeRecipe, family: str) -> None:
    dropout = {"model.dropout": ...} if family == "eurobert" else {}

    assert check(make_recipe({"model.family": family, **dropout})) == []


@pytest.mark.parametrize("family", ["albert", "mpnet", "deberta-v2"])
def test_without_taps_a_family_is_fine_but_for_guidance(make_recipe: MakeRecipe, family: str) -> None:
    assert check(make_recipe({"model.family": family, **UNGUIDED})) == []

    problem = only_problem(make_recipe({"model.family": family}))

    assert_told(problem, {"guidance.heads", "model.family"}, repr(family), "leave guidance out")


def test_documents_that_cannot_be_kept_apart(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"model.family": "deberta-v2", "data.attend_across_documents": False, **UNGUIDED})

    keys = {"data.attend_across_documents", "model.family"}
    assert_told(only_problem(recipe), keys, "'deberta-v2'", "attend_across_documents: true")


def test_a_name_that_is_no_family(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"model.family": "robreta"}))

    assert_told(problem, {"model.family"}, "'robreta'", "did you mean roberta?")


def test_a_head_that_is_not_understood(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"model.family": "esm", **UNGUIDED}))

    assert_told(problem, {"model.family"}, "EsmForMaskedLM", "output layer", "another family")


def test_what_a_family_lacks(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"model.family": "fnet", "model.attention_dropout": 0.1, **UNGUIDED})

    keys = {key for problem in check(recipe) for key in problem.keys}

    assert keys == {"model.attention_dropout", "model.num_heads"}


@pytest.mark.parametrize(
    ("family", "option", "ours"),
    [
        ("distilbert", "dim", "model.hidden_size"),
        ("distilbert", "hidden_dim", "model.intermediate_size"),
        ("distilbert", "hidden_size", "model.hidden_size"),
        ("roberta", "max_position_embeddings", "model.max_positions"),
        ("eurobert", "attention_dropout", "model.attention_dropout"),
    ],
)
def test_options_that_the_recipe_says_elsewhere(
    make_recipe: MakeRecipe, family: str, option: str, ours: str
) -> None:
    recipe = make_recipe({"model.family": family, "model.options": {option: 16}, "model.dropout": ...})

    assert_told(only_problem(recipe), {f"model.options.{option}"}, "found 16", f"write {ours} instead")
