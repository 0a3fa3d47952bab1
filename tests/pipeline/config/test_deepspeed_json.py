"""The shipped templates, what is refused in a user's, and what DeepSpeed is given in the end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.deepspeed_json import (
    TEMPLATES_DIR,
    find_template,
    offloads_optimizer,
    read_template,
    resolve,
    zero_stage,
)
from pipeline.config.schema import Recipe

MakeRecipe = Callable[..., Recipe]
TEMPLATES = sorted(path.stem for path in TEMPLATES_DIR.glob("*.json"))


def write(tmp_path: Path, template: Any) -> str:
    path = tmp_path / "mine.json"
    path.write_text(template if isinstance(template, str) else json.dumps(template), encoding="utf-8")
    return str(path)


def only_message(name: str) -> str:
    """The message of the template's one problem."""
    _, problems = read_template(name)
    assert [problem.keys for problem in problems] == [("train.deepspeed",)]
    return problems[0].message


def test_every_stage_has_a_template() -> None:
    assert {zero_stage(read_template(name)[0]) for name in TEMPLATES} == {0, 1, 2, 3}


@pytest.mark.parametrize("name", TEMPLATES)
def test_shipped_template_is_clean(name: str) -> None:
    template, problems = read_template(name)

    assert problems == []
    assert template


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_batch_triangle_holds_and_no_blank_is_left(
    make_recipe: MakeRecipe, name: str, precision: str
) -> None:
    recipe = make_recipe(
        {"train.global_batch_size": 48, "train.micro_batch_size": 4, "train.precision": precision}
    )
    template, _ = read_template(name)

    for world_size in (1, 2, 3, 4, 6, 12):
        config = resolve(recipe, template, world_size)
        assert (
            config["train_batch_size"]
            == 48
            == (config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * world_size)
        )
        assert '"auto"' not in json.dumps(config)
        assert config["bf16"]["enabled"] == (precision == "bf16")
        assert config["fp16"]["enabled"] == (precision == "fp16")


@pytest.mark.parametrize("name", TEMPLATES)
def test_deepspeed_accepts_the_resolved_template(make_recipe: MakeRecipe, name: str) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    recipe = make_recipe({"optimizer.gradient_clipping": 0.7, "train.precision": "bf16"})
    template, _ = read_template(name)

    config = DeepSpeedConfig(resolve(recipe, template, world_size=1))

    assert config.zero_optimization_stage == zero_stage(template)
    assert config.gradient_clipping == 0.7
    assert config.train_batch_size == recipe.train.global_batch_size
    assert config.bfloat16_config.enabled
    assert config.optimizer_params["lr"] == recipe.optimizer.learning_rate


def test_optimizer_is_the_recipes(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        {"optimizer.betas": [0.8, 0.95], "optimizer.eps": 1e-7, "optimizer.weight_decay": 0.3}
    )

    params = resolve(recipe, read_template("zero1")[0], 1)["optimizer"]["params"]

    assert (params["betas"], params["eps"], params["weight_decay"]) == ([0.8, 0.95], 1e-7, 0.3)
    assert params["torch_adam"] is True


def test_adamw_is_fused_everywhere(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    for name in TEMPLATES:
        template, _ = read_template(name)
        optimizer = resolve(recipe, template, 1)["optimizer"]
        assert (optimizer["type"], optimizer["params"]["fused"]) == ("AdamW", True)
        assert offloads_optimizer(template) == ("offload" in name)


@pytest.mark.parametrize("name", TEMPLATES)
def test_lamb_is_let_through_by_deepspeed(make_recipe: MakeRecipe, name: str) -> None:
    """Whatever the template says: it takes an optimizer that it does not know, and offloads it."""
    template, _ = read_template(name)
    config = resolve(make_recipe({"optimizer.kind": "lamb", "optimizer.eps": 1e-7}), template, 1)
    assert config["optimizer"]["type"] == "Lamb"
    assert config["optimizer"]["params"].keys() == {"lr", "betas", "eps", "weight_decay"}
    assert config["optimizer"]["params"]["eps"] == 1e-7
    assert config["zero_allow_untested_optimizer"] is True
    assert config["zero_force_ds_cpu_optimizer"] is False


def test_own_settings_reach_deepspeed_as_they_are(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    zero = {"stage": 2, "reduce_bucket_size": 12345}
    template, problems = read_template(write(tmp_path, {"zero_optimization": zero}))

    config = resolve(make_recipe(), template, 1)

    assert problems == []
    assert config["zero_optimization"] == zero


def test_name_goes_before_path() -> None:
    assert find_template("zero2") == TEMPLATES_DIR / "zero2.json"
    assert find_template("other/zero2.json") == Path("other/zero2.json")


def test_unknown_template_gets_the_known_names() -> None:
    message = only_message("zero7")

    assert "'zero7'" in message
    assert all(name in message for name in TEMPLATES)


@pytest.mark.parametrize("text", ["{", "", "\x00", "[1]", "3"])
def test_file_that_is_no_json_object_is_told_so(tmp_path: Path, text: str) -> None:
    assert "mine.json" in only_message(write(tmp_path, text))


def test_typing_error_in_a_key_gets_the_nearest_name(tmp_path: Path) -> None:
    message = only_message(write(tmp_path, {"gradient_cliping": "auto"}))

    assert "'gradient_cliping'" in message
    assert "did you mean gradient_clipping?" in message


def test_setting_deepspeed_gave_up_is_refused(tmp_path: Path) -> None:
    assert "compression_training" in only_message(write(tmp_path, {"compression_training": {}}))


@pytest.mark.parametrize(
    ("key", "value", "decider"),
    [
        ("train_batch_size", 256, "train.global_batch_size"),
        ("train_micro_batch_size_per_gpu", 8, "train.micro_batch_size"),
        ("gradient_accumulation_steps", 4, "train.global_batch_size"),
        ("gradient_clipping", 1.0, "optimizer.gradient_clipping"),
        ("optimizer", {"type": "Adam"}, "optimizer"),
        ("bf16", {"enabled": True}, "train.precision"),
    ],
)
def test_what_the_recipe_decides_cannot_be_set_twice(
    tmp_path: Path, key: str, value: Any, decider: str
) -> None:
    message = only_message(write(tmp_path, {key: value}))

    assert f"{key}={value!r}" in message
    assert 'write "auto"' in message
    assert decider in message


@pytest.mark.parametrize("zero", [{"stage": 4}, {"stage": "2"}, {"stage": None}, 2, "auto", [], None])
def test_zero_section_that_makes_no_sense_is_told_so(tmp_path: Path, zero: Any) -> None:
    assert "zero_optimization" in only_message(write(tmp_path, {"zero_optimization": zero}))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"round_robin_gradients": True}, ["round_robin_gradients is True", "leave it out"]),
        ({"offload_optimizer": {"device": "cpu", "ratio": 0.5}}, ["ratio is 0.5", "leave it out"]),
        ({"offload_optimizer": {"device": "nvme"}}, ["nvme", "device: cpu"]),
    ],
)
def test_what_a_checkpoint_would_not_hold_is_refused(
    tmp_path: Path, setting: dict[str, Any], words: list[str]
) -> None:
    message = only_message(write(tmp_path, {"zero_optimization": {"stage": 3, **setting}}))

    assert all(word in message for word in words)


def test_typing_error_inside_the_zero_section_is_told_before_training(tmp_path: Path) -> None:
    template = {"zero_optimization": {"stage": 2, "overlap_com": True}}

    assert "overlap_com" in only_message(write(tmp_path, template))


def test_all_mistakes_of_a_template_are_told_together(tmp_path: Path) -> None:
    _, problems = read_template(
        write(tmp_path, {"train_batch_size": 8, "zzz": 1, "zero_optimization": {"stage": 9}})
    )

    assert len(problems) == 3
