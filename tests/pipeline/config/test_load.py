"""From YAML text to settings, and what a wrong one is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.checks import World, load_checked_recipe
from pipeline.config.guidance_checks import warn_of_guidance
from pipeline.config.load import (
    RECIPES_DIR,
    Problem,
    find_recipe,
    parse_recipe,
    raise_problems,
    read_settings,
)
from pipeline.errors import RecipeError, UsageError

MakeSettings = Callable[..., dict[str, Any]]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(settings: dict[str, Any]) -> dict[str, str]:
    """Message by key."""
    return {", ".join(problem.keys): problem.message for problem in parse_recipe(settings)[1]}


# Reading


@pytest.mark.parametrize("text", ["5e-4", "5E-4", "5.0e-4", ".5e-3", "+5e-4", "0.0005", "50e-5"])
def test_a_number_is_a_number_however_written(tmp_path: Path, text: str) -> None:
    settings = read_settings(write(tmp_path, f"rate: {text}"), [])

    assert settings == {"rate": pytest.approx(5e-4)}
    assert isinstance(settings["rate"], float)


def test_text_that_looks_a_little_like_a_number_stays_text(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, "a: e4\nb: 1e\nc: 5e-4x\nd: '5e-4'"), [])

    assert settings == {"a": "e4", "b": "1e", "c": "5e-4x", "d": "5e-4"}


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2\n", "train: {num_steps: 5, num_steps: 6}"])
def test_key_written_twice_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"'(seed|num_steps)' is written twice"):
        read_settings(write(tmp_path, text), [])


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "- 1\n- 2",
        "just text",
        "a: !!python/object:os.system {}",
        "{a: 1}: 2",
        "[a]: 2",
        "a: &x {b: *x}",
    ],
)
def test_file_that_is_no_recipe_is_told_so(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        read_settings(path, [])


def test_file_that_is_no_text_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"seed: \xff\xfe")

    with pytest.raises(RecipeError, match="not readable YAML"):
        read_settings(path, [])


def test_empty_file_is_an_empty_recipe(tmp_path: Path) -> None:
    assert read_settings(write(tmp_path, "# nothing yet\n"), []) == {}


# --set


def test_overrides_reach_any_depth_and_keep_types(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 1\ntrain: {num_steps: 5, precision: fp32}\n")

    settings = read_settings(
        path,
        [
            "seed=2",
            "train.num_steps=0.5",
            "guidance.heads={next: 1}",
            "guidance.heads.offset-3=2",
            "model.checkpoint=a/b=c",
            "optimizer.learning_rate=5e-4",
            "guidance.layers=null",
        ],
    )

    assert settings == {
        "seed": 2,
        "train": {"num_steps": 0.5, "precision": "fp32"},
        "guidance": {"heads": {"next": 1, "offset-3": 2}, "layers": None},
        "model": {"checkpoint": "a/b=c"},
        "optimizer": {"learning_rate": 5e-4},
    }


def test_ranges_of_layers_are_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "guidance:\n  heads: {0-3: {next: 2}, 4-: {first: 1}}\n")

    settings = read_settings(path, ["guidance.heads.0-3.previous=1", "guidance.heads.10-.last=1"])

    assert settings["guidance"]["heads"] == {
        "0-3": {"next": 2, "previous": 1},
        "4-": {"first": 1},
        "10-": {"last": 1},
    }


def test_a_preset_takes_the_place_of_counts_and_the_other_way_round(tmp_path: Path) -> None:
    counts, preset = "guidance: {heads: {next: 1}}", "guidance: {heads: paper}"

    assert read_settings(write(tmp_path, counts), ["guidance.heads=grid"])["guidance"]["heads"] == "grid"
    assert read_settings(write(tmp_path, preset), ["guidance.heads.last=2"])["guidance"]["heads"] == {
        "last": 2
    }


def test_the_last_override_of_a_key_wins(tmp_path: Path) -> None:
    assert read_settings(write(tmp_path, ""), ["seed=1", "seed=2"]) == {"seed": 2}


@pytest.mark.parametrize("override", ["seed", "=1", "train.=1", ".seed=1", "a..b=1", "seed: 3", "seed=[1"])
def test_override_of_another_form_is_a_usage_error(tmp_path: Path, override: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings(write(tmp_path, ""), [override])

    assert repr(override) in str(caught.value)


def test_unknown_key_of_an_override_gets_the_nearest_name(tmp_path: Path, tiny_recipe: MakeSettings) -> None:
    path = write(tmp_path, yaml.safe_dump(tiny_recipe()))

    found = problems_of(read_settings(path, ["guidance.wieght=0"]))

    assert found == {"guidance.wieght": "unknown key; did you mean guidance.weight?"}


# Single values


def test_correct_recipe_is_read_as_written(tiny_recipe: MakeSettings) -> None:
    settings = tiny_recipe()

    recipe, problems = parse_recipe(settings)

    assert problems == []
    dumped = recipe.model_dump()
    for section, values in settings.items():
        kept = {key: dumped[section][key] for key in values} if isinstance(values, dict) else dumped[section]
        assert kept == values


def test_defaults_fill_a_recipe_that_names_only_its_places() -> None:
    recipe, problems = parse_recipe({"run_dir": "run", "corpus": "corpus"})

    assert problems == []
    assert (recipe.model.num_layers, recipe.model.hidden_size) == (12, 768)
    assert not recipe.guided


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("train.num_step", 5, "did you mean train.num_steps?"),
        ("optimizer.lerning_rate", 1e-3, "did you mean optimizer.learning_rate?"),
        ("modell", {}, "did you mean model?"),
        ("learning_rate", 1e-3, "did you mean optimizer.learning_rate?"),
        ("train.warmup", 10, "did you mean schedule.warmup?"),
        ("data.zzz", 1, "data has num_workers"),
    ],
)
def test_unknown_key_gets_a_hint(tiny_recipe: MakeSettings, key: str, value: Any, hint: str) -> None:
    found = problems_of(tiny_recipe({key: value}))

    assert list(found) == [key]
    assert found[key].startswith("unknown key")
    assert hint in found[key]


def test_dotted_key_written_into_the_file_is_explained(tiny_recipe: MakeSettings) -> None:
    found = problems_of(tiny_recipe() | {"train.num_steps": 5})

    assert "unknown key; did you mean train.num_steps?" not in found.values()  # it is what was written


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", 1.5),
        ("seed", 2**70),
        ("model.num_layers", 0),
        ("model.num_layers", "12"),
        ("model.family", ["bert"]),
        ("model.dropout", 1.0),
        ("objective.mask_rate", 0.0),
        ("objective.mask_share", 1.2),
        ("guidance.weight", -1),
        ("guidance.weight", float("inf")),
        ("guidance.weight", float("nan")),
        ("guidance.heads", 6),
        ("guidance.heads", ["next"]),
        ("guidance.heads", {"next": 0}),
        ("guidance.heads", {"next": True}),
        ("guidance.heads", {"next": 1, "first": None}),
        ("guidance.heads", {"0-1": {"next": 0}}),
        ("guidance.heads", {"0-1": {"next": 1}, "first": 1}),
        ("guidance.heads", {"0-1": {"0-0": {"next": 1}}}),
        ("guidance.plateau", 1.5),
        ("guidance.end", -3),
        ("guidance.layers", [-1]),
        ("guidance.delimiters", []),
        ("guidance.sentence_ends", "."),
        ("guidance.method", "add"),
        ("guidance.error", "mse"),
        ("guidance.normalization", "sum"),
        ("guidance.alpha", -1),
        ("guidance.bias", -0.5),
        ("guidance.dense", "form"),
        ("guidance.dense", -1),
        ("guidance.dense", 1.5),
        ("guidance.formed_mass", 0.0),
        ("guidance.formed_mass", 1.0),
        ("guidance.layers_per_step", 0),
        ("guidance.layers_per_step", 1.0),
        ("guidance.layers_per_step", True),
        ("guidance.layers_per_step", "all"),
        ("guidance.layer_weights", [0.0]),
        ("guidance.row_stride", 0),
        ("optimizer.learning_rate", 0),
        ("optimizer.learning_rate", "5e-4"),
        ("optimizer.learning_rate", float("inf")),
        ("optimizer.betas", [0.9]),
        ("schedule.warmup", True),
        ("schedule.kind", "cosin"),
        ("train.num_steps", 1e4),
        ("train.precision", "float32"),
        ("train.activation_checkpointing", "yes"),
        ("checkpoint.keep_last", 1),
        ("data.num_workers", -1),
        ("corpus", None),
    ],
)
def test_value_out_of_bounds_is_told_with_its_key(tiny_recipe: MakeSettings, key: str, value: Any) -> None:
    found = problems_of(tiny_recipe({key: value}))

    assert len(found) == 1, found
    ((name, message),) = found.items()
    assert name.startswith(key)
    shown = value[0] if name != key and isinstance(value, list) else value
    assert f"found {shown!r}" in message
    assert len(message) > len(f"found {shown!r}, ")  # and what it should be


def test_section_that_is_a_value_is_told_so(tiny_recipe: MakeSettings) -> None:
    found = problems_of(tiny_recipe({"train": 5}))

    assert found == {"train": "found 5, should be a section: keys and values below it"}


@pytest.mark.parametrize("key", ["run_dir", "corpus"])
def test_required_key_is_asked_for(tiny_recipe: MakeSettings, key: str) -> None:
    assert problems_of(tiny_recipe({key: ...})) == {key: "is required; add it"}


def test_durations_are_steps_or_shares(make_recipe: Callable[..., Any]) -> None:
    recipe = make_recipe({"train.num_steps": 200})

    assert [recipe.steps_of(duration) for duration in (0, 7, 1, 1.0, 0.25, 0.0)] == [0, 7, 1, 200, 50, 0]


@pytest.mark.parametrize(("value", "steps"), [("formed", None), (3, 3), (0, 0), (0.5, 6), (1.0, 12)])
def test_dense_phase_is_measured_or_a_duration(
    make_recipe: Callable[..., Any], value: Any, steps: int | None
) -> None:
    recipe = make_recipe({"guidance.dense": value})

    assert recipe.guidance.dense == value
    assert steps is None or recipe.steps_of(recipe.guidance.dense) == steps


@pytest.mark.parametrize("value", ["form", -1, 1.5])
def test_wrong_dense_phase_is_told_all_that_can_be_written(tiny_recipe: MakeSettings, value: Any) -> None:
    message = problems_of(tiny_recipe({"guidance.dense": value}))["guidance.dense"]

    assert "formed" in message
    assert "steps" in message
    assert "share" in message


def test_a_range_without_heads_is_told(tiny_recipe: MakeSettings) -> None:
    assert "number of heads" in problems_of(tiny_recipe({"guidance.heads": {"0-1": {}}}))["guidance.heads"]


def test_example_of_a_table_can_be_copied_from_the_message(tiny_recipe: MakeSettings) -> None:
    message = problems_of(tiny_recipe({"guidance.heads": 6}))["guidance.heads"]

    example = message[message.index("(0-3:") + 1 : message.rindex(")")]
    assert yaml.safe_load(example) == {"0-3": {"next": 2}}


@pytest.mark.parametrize(
    ("value", "by_number_of_layers"),
    [
        (2, {2: 2, 6: 2, 12: 2}),
        (0.25, {1: 1, 4: 1, 6: 2, 12: 3}),
        (0.001, {1: 1, 12: 1}),
        (None, {1: None, 12: None}),
    ],
)
def test_layers_per_step_are_a_number_or_a_share_rounded_up(
    make_recipe: Callable[..., Any], value: Any, by_number_of_layers: dict[int, int | None]
) -> None:
    guidance = make_recipe({"guidance.layers_per_step": value}).guidance

    assert {num: guidance.num_layers_per_step(num) for num in by_number_of_layers} == by_number_of_layers


@pytest.mark.parametrize(
    ("settings", "guided"),
    [
        ({}, True),
        ({"guidance.weight": ...}, True),
        ({"guidance.heads": {}}, False),
        ({"guidance.weight": 0}, False),
        ({"guidance.weight": 0.0}, False),
        ({"guidance.weight": ..., "guidance.alpha": 10.0}, True),
        ({"guidance.weight": ..., "guidance.alpha": 0.0}, False),
        ({"guidance.weight": ..., "guidance.method": "bias"}, False),
        ({"guidance.heads": "paper"}, True),
        ({"guidance.heads": {"0-0": {"next": 1}}}, True),
    ],
)
def test_a_run_is_guided_when_some_head_has_a_loss(
    make_recipe: Callable[..., Any], settings: dict[str, Any], guided: bool
) -> None:
    assert make_recipe(settings).guided == guided


def test_all_problems_are_found_and_the_sound_rest_is_kept(tiny_recipe: MakeSettings) -> None:
    recipe, problems = parse_recipe(
        tiny_recipe({"seed": -1, "train.num_stepps": 3, "model.dropout": 2.0, "model.num_layers": 5})
    )

    assert {problem.keys[0] for problem in problems} == {"seed", "train.num_stepps", "model.dropout"}
    assert recipe is not None  # with defaults in the broken places, for the rules that join settings
    assert (recipe.seed, recipe.model.num_layers, recipe.train.num_steps) == (0, 5, 12)


def test_problems_are_told_in_one_message() -> None:
    problems = [Problem(("a.b",), "write 1"), Problem(("c", "d"), "write 2")]

    with pytest.raises(RecipeError) as caught:
        raise_problems("my.yaml", problems)

    assert str(caught.value).splitlines() == [
        "recipe my.yaml has 2 problems:",
        "  - a.b: write 1",
        "  - c, d: write 2",
    ]
    assert caught.value.exit_code == 78
    raise_problems("my.yaml", [])


# Shipped recipes


def shipped_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))


def test_recipes_come_along() -> None:
    assert "demo" in shipped_recipes()


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipe_is_found_by_name_and_parses(name: str) -> None:
    recipe, problems = parse_recipe(read_settings(find_recipe(name), []))

    assert problems == []
    assert recipe is not None


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipe_has_no_problem_on_eight_gpus(name: str, tiny_corpus: Path) -> None:
    world = World(world_size=8, on_cuda=True)

    load_checked_recipe(name, [f"corpus={tiny_corpus}"], world)


def test_a_file_goes_before_a_shipped_recipe_and_unknown_names_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    assert find_recipe(str(path)) == path

    with pytest.raises(UsageError, match=r"no recipe 'nothing'.*demo"):
        find_recipe("nothing")


@pytest.mark.parametrize("name", shipped_recipes())
def test_no_shipped_recipe_guides_a_family_that_guidance_harms(name: str) -> None:
    recipe, _ = parse_recipe(read_settings(find_recipe(name), []))

    assert recipe is not None
    assert warn_of_guidance(recipe) is None
