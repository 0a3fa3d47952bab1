"""Rules about guidance. Each wrong recipe has one message: the keys, the value found, what to write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.build import build_guidance_schedule
from pipeline.config.checks import load_checked_recipe
from pipeline.config.guidance_checks import warn_of_guidance
from pipeline.config.schema import Recipe
from pipeline.guidance.allocation import PRESETS, allocate
from pipeline.guidance.schedule import GuidedStep
from pipeline.runs.run_dir import RunDir, recipe_differences
from tests.pipeline.config.checking import ONE_CPU, assert_told, check, only_problem
from tests.pipeline.tiny_models import tiny_model

MakeRecipe = Callable[..., Recipe]
BY_DEFAULT = {"guidance.weight": ...}  # a value of ... removes the key that the tiny recipe has
EIGHT_HEADS = {"model.num_heads": 8}
LOCAL_MODEL = {  # layers 1 and 2 reach 4 tokens to either side, layers 0 and 3 all the way
    "model.family": "modernbert",
    "model.num_layers": 4,
    "model.options": {"local_attention": 8, "global_attn_every_n_layers": 3},
}


# Sound recipes


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance.heads": {}},
        {"guidance.heads": {"next": 1, "offset-3": 1, "last": 1, "self": 1}},
        {"guidance.heads": {"delimiters": 1, "sentence_ends": 1}},
        {"guidance.heads": {"delimiters": 1}, "guidance.delimiters": ["<sep>", ".", "</s>"]},
        {"guidance.heads": {"sentence_ends": 1}, "guidance.sentence_ends": ["."]},
        {"guidance.heads": {"0-0": {"previous": 4}, "1-": {"delimiters": 3, "first": 1}}},
        {"guidance.heads": {"1-1": {"first": 1}}, "guidance.layers_per_step": 1},
        {"guidance.layers": [1], "guidance.layers_per_step": 1, "guidance.layer_weights": [2.5]},
        {"guidance.layer_weights": [1.0, 3.0], "guidance.row_stride": 4},
        {"guidance.layers_per_step": None},
        {"guidance.layers_per_step": 0.99},
        {"guidance.error": "cross_entropy"},
        {"guidance.normalization": "authors"},
        {**BY_DEFAULT, "guidance.alpha": 100.0, "guidance.normalization": "authors"},
        {**BY_DEFAULT, "guidance.method": "bias", "guidance.bias": 4.0, "guidance.plateau": 0.1},
        {**BY_DEFAULT, "guidance.method": "bias", "guidance.alpha": None, "guidance.layers_per_step": None},
        {"guidance.dense": "formed", "guidance.formed_mass": 0.7},
        {"guidance.dense": 3},
        {"guidance.dense": 0.25},
        {"guidance.plateau": 6, "guidance.end": 6},
    ],
)
def test_sound_guidance_has_no_problems(make_recipe: MakeRecipe, settings: dict[str, Any]) -> None:
    assert check(make_recipe(settings)) == []


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
def test_presets_fit_models_of_any_depth(make_recipe: MakeRecipe, preset: str, num_layers: int) -> None:
    settings = {"guidance.heads": preset, "model.num_layers": num_layers, **EIGHT_HEADS}

    assert check(make_recipe(settings)) == []


# Patterns and heads


def test_unknown_pattern(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"guidance.heads": {"prev": 1}}))

    assert_told(problem, {"guidance.heads.prev"}, "'prev'", "next, previous, self, first, last, delimiters")


def test_unknown_patterns_of_a_table_are_each_told_once(make_recipe: MakeRecipe) -> None:
    problems = check(
        make_recipe({"guidance.heads": {"0-0": {"prev": 1, "offset3": 1}, "1-1": {"prev": 1, "next": 1}}})
    )

    assert [problem.keys for problem in problems] == [("guidance.heads.prev",), ("guidance.heads.offset3",)]


def test_unknown_preset(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"guidance.heads": "papers"}))

    assert_told(problem, {"guidance.heads"}, "'papers'", "paper, grid, clark")


def test_more_guided_heads_than_the_model_has(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"guidance.heads": {"next": 3, "first": 2}}))

    assert_told(problem, {"guidance.heads", "model.num_heads"}, "5 guided heads", "has 4", "at most 4")
    assert "in layer" not in problem.message  # all layers have them


@pytest.mark.parametrize("preset", ["paper", "grid"])
def test_preset_for_a_model_with_too_few_heads(make_recipe: MakeRecipe, preset: str) -> None:
    problem = only_problem(make_recipe({"guidance.heads": preset}))

    assert_told(problem, {"guidance.heads", "model.num_heads"}, "6 guided heads", "'first'", "has 4")


def test_layers_with_too_many_heads_are_named_once_for_each_kind(make_recipe: MakeRecipe) -> None:
    """The preset has three kinds of layers, all of them with six heads."""
    problems = check(make_recipe({"guidance.heads": "clark", "model.num_layers": 6}))

    assert {problem.keys for problem in problems} == {("guidance.heads", "model.num_heads")}
    assert [problem.message.partition(" in layer ")[2][0] for problem in problems] == ["0", "2", "4"]
    assert "6 guided heads {'delimiters': 2, 'sentence_ends': 4} in layer 4" in problems[2].message


def test_only_the_crowded_layer_of_a_table_is_named(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"guidance.heads": {"0-0": {"next": 4}, "1-1": {"first": 5}}}))

    assert_told(problem, {"guidance.heads", "model.num_heads"}, "5 guided heads {'first': 5} in layer 1,")


@pytest.mark.parametrize("pattern", ["offset+32", "offset-100"])
def test_pattern_points_outside_the_rows(make_recipe: MakeRecipe, pattern: str) -> None:
    problem = only_problem(make_recipe({"guidance.heads": {"0-0": {pattern: 1}, "1-1": {"next": 1}}}))

    assert_told(problem, {f"guidance.heads.{pattern}"}, "rows of 32 tokens")


@pytest.mark.parametrize("pattern", ["offset+31", "offset-31"])
def test_pattern_points_to_the_rows_end(make_recipe: MakeRecipe, pattern: str) -> None:
    assert check(make_recipe({"guidance.heads": {pattern: 1}})) == []


# Ranges of layers


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        (["0-1", "1-1"], ["layer 1 is in '1-1'", "an earlier range", "name it once"]),
        (["0-", "0-0"], ["layer 0 is in '0-0'", "an earlier range"]),
        (["0-2"], ["'0-2'", "the layers 0-1"]),
        (["2-"], ["'2-'", "the layers 0-1"]),
        (["1-0"], ["'1-0'", "the layers 0-1"]),
        (["0"], ["'0' is no range", "write it as 0-1", "2- for all from layer 2 up"]),
        (["-1"], ["'-1' is no range", "write it as 0-1"]),
        (["lower"], ["'lower' is no range", "write it as 0-1"]),
        (["0-0", "next"], ["'next' is no range", "write it as 0-1"]),
    ],
    ids=[
        "overlap",
        "open overlap",
        "beyond",
        "open beyond",
        "backwards",
        "one number",
        "minus",
        "word",
        "name",
    ],
)
def test_ranges_that_are_none(make_recipe: MakeRecipe, ranges: list[str], words: list[str]) -> None:
    heads = {text: {"next": 1} for text in ranges}

    assert_told(only_problem(make_recipe({"guidance.heads": heads})), {"guidance.heads"}, *words)


def test_layers_beside_a_table(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"guidance.heads": {"0-0": {"next": 1}}, "guidance.layers": [0]}))

    assert_told(problem, {"guidance.layers", "guidance.heads"}, "remove guidance.layers")


# Layers


def test_layers_beyond_the_last(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"guidance.layers": [0, 2, 7]}))

    assert_told(problem, {"guidance.layers", "model.num_layers"}, "[2, 7]", "last layer, 1")


def test_layers_beyond_the_last_of_a_checkpoint(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    tiny_model("roberta", max_positions=64, options={"vocab_size": 640}).save_pretrained(tmp_path / "start")
    recipe = make_recipe({"model": {"checkpoint": str(tmp_path / "start")}, "guidance.layers": [3]})

    assert "[3]" in only_problem(recipe).message


@pytest.mark.parametrize("layers", [[0, 0], []])
def test_layers_named_twice_or_not_at_all(make_recipe: MakeRecipe, layers: list[int]) -> None:
    assert_told(only_problem(make_recipe({"guidance.layers": layers})), {"guidance.layers"}, str(layers))


# Schedule and sampling


def test_guidance_ends_before_its_plateau(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"guidance.plateau": 8, "guidance.end": 0.5}))

    assert_told(problem, {"guidance.plateau", "guidance.end"}, "8 steps", "zero at 6", "at or after")


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"guidance.layers_per_step": 3}, "3 of 2"),
        ({"guidance.layers_per_step": 2, "guidance.layers": [1]}, "2 of 1"),
        ({"guidance.layers_per_step": 2, "guidance.heads": {"1-1": {"next": 1}}}, "2 of 1"),
    ],
    ids=["model", "layers", "table"],
)
def test_more_layers_per_step_than_there_are(
    make_recipe: MakeRecipe, settings: dict[str, Any], found: str
) -> None:
    problem = only_problem(make_recipe(settings))

    assert_told(problem, {"guidance.layers_per_step", "guidance.layers"}, found, f"at most {found[-1]}")


def test_one_layer_weight_for_each_guided_layer(make_recipe: MakeRecipe) -> None:
    settings = {"guidance.heads": {"1-1": {"next": 1}}, "guidance.layer_weights": [1.0, 2.0]}

    problem = only_problem(make_recipe(settings))

    assert_told(problem, {"guidance.layer_weights"}, "2 weights for 1 guided layers", "one for each")


# The published loss


def test_cross_entropy_has_no_published_normalization(make_recipe: MakeRecipe) -> None:
    settings = {"guidance.error": "cross_entropy", "guidance.normalization": "authors"}

    problem = only_problem(make_recipe(settings))

    assert_told(
        problem, {"guidance.error", "guidance.normalization"}, "normalization: mean", "error: squared"
    )


def test_alpha_is_no_weight_of_a_cross_entropy(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**BY_DEFAULT, "guidance.error": "cross_entropy", "guidance.alpha": 100.0})

    assert_told(only_problem(recipe), {"guidance.alpha", "guidance.error"}, "found 100", "write weight")


UNEQUAL = {
    "counts": {"guidance.heads": {"next": 1, "first": 2}},
    "preset": {"guidance.heads": "paper", **EIGHT_HEADS},
    "within a layer": {"guidance.heads": {"1-": {"next": 2, "first": 1}}},
    "between layers": {"guidance.heads": {"0-0": {"next": 1}, "1-": {"last": 2, "self": 2}}},
    "clark": {"guidance.heads": "clark", **EIGHT_HEADS},
}


@pytest.mark.parametrize("heads", UNEQUAL.values(), ids=UNEQUAL)
def test_alpha_of_patterns_with_unequal_heads_is_the_published_normalization(
    make_recipe: MakeRecipe, heads: dict[str, Any]
) -> None:
    settings = {**BY_DEFAULT, **heads, "guidance.alpha": 100.0}

    problem = only_problem(make_recipe(settings))

    assert_told(
        problem,
        {"guidance.alpha", "guidance.normalization"},
        "found 100 and mean",
        "write normalization: authors",
    )
    assert check(make_recipe({**settings, "guidance.normalization": "authors"})) == []
    assert check(make_recipe({**settings, "guidance.weight": 0.0})) == []


@pytest.mark.parametrize(
    "heads",
    [{"next": 1, "previous": 1}, "grid", {"0-0": {"next": 2}, "1-": {"last": 2, "self": 2}}],
)
def test_alpha_of_equal_heads_needs_no_other_normalization(make_recipe: MakeRecipe, heads: Any) -> None:
    recipe = make_recipe({**BY_DEFAULT, **EIGHT_HEADS, "guidance.heads": heads, "guidance.alpha": 100.0})

    assert check(recipe) == []


def test_unequal_heads_are_named(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**BY_DEFAULT, **UNEQUAL["preset"], "guidance.alpha": 100.0})

    assert "patterns of 1 and 4 heads" in only_problem(recipe).message


def test_published_normalization_is_of_whole_rows(make_recipe: MakeRecipe) -> None:
    settings = {"guidance.normalization": "authors", "data.attend_across_documents": False}

    assert_told(
        only_problem(make_recipe(settings)),
        {"guidance.normalization", "data.attend_across_documents"},
        "normalization: mean",
        "attend_across_documents: true",
    )
    assert check(make_recipe({**settings, "guidance.weight": 0.0})) == []


# Keys without effect


LOSS_KEYS = {
    "error": "squared",
    "normalization": "mean",
    "weight": 7.0,
    "alpha": 100.0,
    "dense": 4,
    "formed_mass": 0.6,
    "layers_per_step": 1,
    "layer_weights": [1.0, 1.0],
    "row_stride": 2,
}


@pytest.mark.parametrize("key", LOSS_KEYS)
def test_settings_of_the_loss_beside_method_bias(make_recipe: MakeRecipe, key: str) -> None:
    settings = {**BY_DEFAULT, "guidance.method": "bias", f"guidance.{key}": LOSS_KEYS[key]}

    assert_told(only_problem(make_recipe(settings)), {f"guidance.{key}"}, "no effect", "'bias'", "remove it")


NO_EFFECT = {
    "bias": ({"guidance.bias": 4.0}, "bias", "method 'bias'"),
    "alpha": ({"guidance.alpha": 100.0}, "weight", "alpha"),
    "dense steps": ({"guidance.dense": 4, "guidance.formed_mass": 0.6}, "formed_mass", "dense: formed"),
    "dense share": ({"guidance.dense": 0.5, "guidance.formed_mass": 0.6}, "formed_mass", "dense: formed"),
    "delimiters": ({"guidance.delimiters": ["."]}, "delimiters", "no head has the pattern 'delimiters'"),
    "sentence ends": ({"guidance.sentence_ends": ["."]}, "sentence_ends", "no head has the pattern"),
    "preset": (
        {"guidance.heads": "grid", **EIGHT_HEADS, "guidance.delimiters": ["."]},
        "delimiters",
        "no head has the pattern 'delimiters'",
    ),
    "table": (
        {"guidance.heads": {"0-0": {"delimiters": 1}}, "guidance.sentence_ends": ["."]},
        "sentence_ends",
        "no head has the pattern 'sentence_ends'",
    ),
}


@pytest.mark.parametrize(("settings", "key", "reason"), NO_EFFECT.values(), ids=NO_EFFECT)
def test_key_without_effect(make_recipe: MakeRecipe, settings: dict[str, Any], key: str, reason: str) -> None:
    """The tiny recipe gives a weight."""
    assert_told(only_problem(make_recipe(settings)), {f"guidance.{key}"}, "no effect", reason, "remove it")


# Tokens


@pytest.mark.parametrize("heads", [{"sentence_ends": 1}, {"1-1": {"sentence_ends": 1, "next": 1}}])
def test_text_that_is_no_token(make_recipe: MakeRecipe, heads: dict[str, Any]) -> None:
    recipe = make_recipe({"guidance.heads": heads, "guidance.sentence_ends": [".", "full stop"]})

    assert_told(
        only_problem(recipe),
        {"guidance.sentence_ends", "corpus"},
        *("'full stop'", f"{recipe.corpus}/tokenizer", "write a text that is one token"),
    )


def test_tokens_of_both_patterns_are_told_together(make_recipe: MakeRecipe) -> None:
    heads = {"delimiters": 1, "sentence_ends": 1}
    texts = {"guidance.delimiters": ["<separator>"], "guidance.sentence_ends": ["full stop"]}

    problems = check(make_recipe({"guidance.heads": heads, **texts}))

    assert {problem.keys[0] for problem in problems} == {"guidance.delimiters", "guidance.sentence_ends"}


def test_without_a_corpus_its_tokens_are_not_asked_for(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    settings = {"guidance.heads": {"delimiters": 1}, "guidance.delimiters": ["<separator>"]}

    problem = only_problem(make_recipe({**settings, "corpus": str(tmp_path / "nowhere")}))

    assert problem.keys == ("corpus",)


# Local attention


@pytest.mark.parametrize("pattern", ["first", "last", "delimiters", "sentence_ends"])
def test_local_layers_cannot_reach_a_target_anywhere_in_the_row(
    make_recipe: MakeRecipe, pattern: str
) -> None:
    problem = only_problem(make_recipe({**LOCAL_MODEL, "guidance.heads": {pattern: 1}}))

    keys = {"guidance.layers", f"guidance.heads.{pattern}"}
    assert_told(problem, keys, "[1, 2]", f"'{pattern}'", "rows of 32 tokens", "layers: [0, 3]")
    assert (
        check(make_recipe({**LOCAL_MODEL, "guidance.heads": {pattern: 1}, "guidance.layers": [0, 3]})) == []
    )


@pytest.mark.parametrize(("offset", "reachable"), [(4, True), (5, False)])
def test_local_layers_reach_as_far_as_their_window(
    make_recipe: MakeRecipe, offset: int, reachable: bool
) -> None:
    recipe = make_recipe({**LOCAL_MODEL, "guidance.heads": {f"offset-{offset}": 1}})

    assert (check(recipe) == []) == reachable


def test_a_table_may_give_local_layers_what_they_reach(make_recipe: MakeRecipe) -> None:
    heads = {"0-0": {"first": 1}, "1-2": {"next": 2}, "3-": {"delimiters": 1}}

    assert check(make_recipe({**LOCAL_MODEL, "guidance.heads": heads})) == []


def test_only_the_layers_of_a_table_that_have_the_pattern_are_told(make_recipe: MakeRecipe) -> None:
    heads = {"0-1": {"first": 1}, "2-2": {"next": 2}, "3-": {"delimiters": 1}}

    problem = only_problem(make_recipe({**LOCAL_MODEL, "guidance.heads": heads}))

    assert "layers [1] attend locally and cannot reach 'first'" in problem.message


@pytest.mark.parametrize(
    "heads", [{"0-": {"first": 1}}, {"0-0": {"next": 1}, "1-2": {"first": 1}, "3-3": {"next": 1}}]
)
def test_advice_for_a_table_can_be_followed(make_recipe: MakeRecipe, heads: dict[str, Any]) -> None:
    """guidance.layers is refused beside a table, and other layers than those of the table do reach."""
    message = only_problem(make_recipe({**LOCAL_MODEL, "guidance.heads": heads})).message

    assert "write layers:" not in message
    assert "no layer can" not in message


def test_advice_for_a_model_without_a_layer_that_reaches_is_not_an_empty_list(
    make_recipe: MakeRecipe,
) -> None:
    options = {"local_attention": 8, "layer_types": ["sliding_attention"] * 2}
    recipe = make_recipe(
        {"model.family": "modernbert", "model.options": options, "guidance.heads": {"first": 1}}
    )

    assert "layers: []" not in only_problem(recipe).message


# The recipe that a run writes


WRITTEN = {
    "defaults": {},
    "no guidance": {"guidance": ...},
    "alpha": {**BY_DEFAULT, "guidance.alpha": 100.0},
    "bias": {**BY_DEFAULT, "guidance.method": "bias"},
    "dense steps": {"guidance.dense": 4},
    "cross-entropy": {**BY_DEFAULT, "guidance.error": "cross_entropy"},
    "preset": {"guidance.heads": "clark", **EIGHT_HEADS},
    "table": {"guidance.heads": {"1-": {"next": 2, "first": 1}, "0-0": {"delimiters": 1}}},
    "tokens": {"guidance.heads": {"sentence_ends": 1}, "guidance.sentence_ends": [".", "!"]},
}


@pytest.mark.parametrize("settings", WRITTEN.values(), ids=WRITTEN)
def test_recipe_of_a_run_is_a_recipe(make_recipe: MakeRecipe, settings: dict[str, Any]) -> None:
    """It has every default written out, and must not have keys that a recipe may not say."""
    recipe = make_recipe(settings)
    run = RunDir(recipe.run_dir)
    run.create(recipe, {})

    again = load_checked_recipe(str(run.recipe_file), [], ONE_CPU)

    assert again == recipe
    assert recipe_differences(recipe, again) == []
    written = yaml.safe_load(run.recipe_file.read_text(encoding="utf-8"))["guidance"]
    assert {"heads", "layers", "method", "plateau"} <= written.keys()
    assert not recipe.guidance.without_effect().keys() & written.keys()


def test_other_order_of_heads_in_a_table_is_a_difference(make_recipe: MakeRecipe) -> None:
    """Heads are given out in the order written: the run would go on with other patterns."""
    old, new = (
        make_recipe({"guidance.heads": {"0-0": {"self": 1}, "1-1": upper}})
        for upper in ({"next": 1, "first": 2}, {"first": 2, "next": 1})
    )

    assert recipe_differences(old, new) == [("guidance.heads.1-1", ["next", "first"], ["first", "next"])]


# A family that guidance harms


@pytest.mark.parametrize("guidance", [{"heads": {"next": 1}}, {"heads": {"next": 1}, "method": "bias"}])
def test_guidance_of_rotary_positions_is_warned_of_and_no_problem(
    make_recipe: MakeRecipe, guidance: dict[str, Any]
) -> None:
    recipe = make_recipe({"model.family": "modernbert", "guidance": guidance})

    warning = warn_of_guidance(recipe)

    assert check(recipe) == []
    assert warning is not None
    assert "modernbert has rotary positions" in warning
    assert "guidance.weight=0" in warning


@pytest.mark.parametrize("guidance", [..., {"heads": {"next": 1}, "weight": 0.0}])
def test_unguided_rotary_positions_are_not_warned_of(make_recipe: MakeRecipe, guidance: Any) -> None:
    assert warn_of_guidance(make_recipe({"model.family": "modernbert", "guidance": guidance})) is None


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_learned_positions_are_not_warned_of(make_recipe: MakeRecipe, family: str) -> None:
    assert warn_of_guidance(make_recipe({"model.family": family})) is None


def test_the_family_is_the_checkpoints(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "modernbert"}', encoding="utf-8")

    assert warn_of_guidance(make_recipe({"model": {"checkpoint": str(tmp_path)}})) is not None


# Settings without heads


def test_settings_without_any_heads(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"guidance": {"plateau": 0.3, "row_stride": 2}}))

    assert_told(problem, {"guidance.plateau", "guidance.row_stride"}, "no head is guided", "heads: paper")


@pytest.mark.parametrize("guidance", [{"heads": {}, "plateau": 0.3}, {"plateau": 0.3, "weight": 0.0}])
def test_guidance_may_be_switched_off_beside_its_settings(
    make_recipe: MakeRecipe, guidance: dict[str, Any]
) -> None:
    assert check(make_recipe({"guidance": guidance})) == []


@pytest.mark.parametrize("unit", [{"alpha": 100.0}, {"method": "bias"}])
def test_a_weight_of_zero_switches_off_every_kind_of_guidance(
    make_recipe: MakeRecipe, unit: dict[str, Any]
) -> None:
    recipe = make_recipe({"guidance": {"heads": {"next": 1}, "weight": 0.0, **unit}})
    schedule = build_guidance_schedule(recipe, allocate([{"next": 1}]), 32)

    assert check(recipe) == []
    assert not recipe.guided
    assert schedule.at(0) == GuidedStep()
