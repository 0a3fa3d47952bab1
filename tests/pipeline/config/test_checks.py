"""Rules that join settings, or the recipe and the world. Each wrong recipe has one clear message."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.format import read_manifest, write_manifest
from pipeline.config.checks import World, load_checked_recipe
from pipeline.config.load import parse_recipe
from pipeline.config.schema import Recipe
from pipeline.errors import RecipeError
from tests.pipeline.config.checking import ONE_CPU, assert_told, check, only_problem
from tests.pipeline.tiny_models import tiny_model

MakeSettings = Callable[..., dict[str, Any]]
MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def corpus_copy(tiny_corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_corpus, tmp_path / "corpus"))


@pytest.fixture
def checkpoint(tiny_corpus: Path, tmp_path: Path) -> Path:
    """A Hugging Face directory with the corpus's tokenizer: 3 layers of 4 heads, 64 positions, 600 tokens."""
    path = tmp_path / "checkpoint"
    model = tiny_model("roberta", max_positions=64, options={"vocab_size": 640})
    model.save_pretrained(path)
    shutil.copytree(tiny_corpus / "tokenizer", path, dirs_exist_ok=True)
    return path


def from_checkpoint(make_recipe: MakeRecipe, checkpoint: Path, **model: Any) -> Recipe:
    return make_recipe({"model": {"checkpoint": str(checkpoint), **model}})


# Sound recipes


def test_correct_recipe_has_no_problems(make_recipe: MakeRecipe) -> None:
    assert check(make_recipe()) == []


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_every_family_is_fine(make_recipe: MakeRecipe, family: str) -> None:
    assert check(make_recipe({"model.family": family})) == []


def test_correct_checkpoint_has_no_problems(make_recipe: MakeRecipe, checkpoint: Path) -> None:
    assert check(from_checkpoint(make_recipe, checkpoint)) == []


def test_limits_themselves_are_allowed(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        {
            "guidance.heads": {"next": 2, "offset+31": 1, "offset-31": 1},
            "guidance.layers": [1],
            "guidance.layers_per_step": 1,
            "guidance.plateau": 6,
            "guidance.end": 6,
            "model.max_positions": 32,
            "schedule.kind": "wsd",
            "schedule.warmup": 6,
            "schedule.decay": 6,
            "checkpoint.keep_every_steps": 8,
            "objective.mask_share": 0.9,
        }
    )

    assert check(recipe, World(world_size=2, on_cuda=False)) == []


# Steps


def test_warmup_longer_than_the_run(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"schedule.warmup": 50}))

    assert_told(
        problem, {"schedule.warmup", "schedule.decay", "train.num_steps"}, "50 steps", "12 steps", "shorten"
    )


def test_warmup_and_decay_overlap(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"schedule.kind": "wsd", "schedule.warmup": 0.75, "schedule.decay": 4})

    assert "warm-up (9 steps) and decay (4)" in only_problem(recipe).message


def test_decay_without_effect(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"schedule.decay": 0.2, "schedule.kind": "cosine"}))

    assert_told(problem, {"schedule.decay", "schedule.kind"}, "'cosine'", "remove it", "kind: wsd")


def test_more_than_everything_is_replaced(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"objective.mask_share": 0.8, "objective.random_share": 0.5}))

    assert_told(problem, {"objective.mask_share", "objective.random_share"}, "1.3", "1.0")


def test_nothing_would_be_kept(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"checkpoint.keep_every_steps": 6}))

    assert_told(problem, {"checkpoint.keep_every_steps", "checkpoint.every_steps"}, "6", "4", "write 8")


# Batch and engine


@pytest.mark.parametrize(
    ("world_size", "fewer", "choice"), [(5, 4, "10 or 15"), (16, 12, "16")], ids=["between", "too few rows"]
)
def test_batch_that_cannot_be_shared(
    make_recipe: MakeRecipe, world_size: int, fewer: int, choice: str
) -> None:
    recipe = make_recipe({"train.global_batch_size": 12})

    problem = only_problem(recipe, World(world_size=world_size, on_cuda=False))

    assert_told(
        problem,
        {"train.global_batch_size"},
        *("12 rows", f"{world_size} processes", f"start {fewer}", f"global_batch_size: {choice} "),
    )


@pytest.mark.parametrize(("world_size", "size"), [(1, 4), (2, 3), (3, 4), (4, 3), (6, 2), (12, 1)])
def test_micro_batch_is_the_largest_that_fits(make_recipe: MakeRecipe, world_size: int, size: int) -> None:
    recipe = make_recipe({"train.global_batch_size": 12, "train.micro_batch_size": 4})

    assert check(recipe, World(world_size=world_size, on_cuda=False)) == []
    assert recipe.micro_batch_size(world_size) == size


def test_fp16_on_cpu(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"train.precision": "fp16"})

    assert_told(only_problem(recipe), {"train.precision"}, "CUDA", "bf16 or fp32")
    assert check(recipe, World(world_size=1, on_cuda=True)) == []


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, ["no file", "zero1, zero2"]),
        ({"gradient_cliping": "auto"}, ["'gradient_cliping'", "did you mean gradient_clipping?"]),
        ({"train_batch_size": 64}, ["train_batch_size=64", "train.global_batch_size"]),
    ],
    ids=["unknown", "typing error", "sets the batch size"],
)
def test_deepspeed_template_is_wrong(
    make_recipe: MakeRecipe, tmp_path: Path, template: dict[str, Any] | None, words: list[str]
) -> None:
    path = tmp_path / "mine.json"
    if template is not None:
        path.write_text(json.dumps(template), encoding="utf-8")

    assert_told(only_problem(make_recipe({"train.deepspeed": str(path)})), {"train.deepspeed"}, *words)


# Corpus


def test_corpus_is_missing(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    problem = only_problem(make_recipe({"corpus": str(tmp_path / "nowhere")}))

    assert_told(problem, {"corpus"}, "nowhere does not exist", "python -m data_prep shard")


def test_corpus_is_unfinished(make_recipe: MakeRecipe, corpus_copy: Path) -> None:
    (corpus_copy / "manifest.json").unlink()

    problem = only_problem(make_recipe({"corpus": str(corpus_copy)}))

    assert_told(problem, {"corpus"}, "has no manifest.json", "python -m data_prep shard")


def test_manifest_is_damaged(make_recipe: MakeRecipe, corpus_copy: Path) -> None:
    (corpus_copy / "manifest.json").write_text('{"format_version": 1}', encoding="utf-8")

    assert_told(only_problem(make_recipe({"corpus": str(corpus_copy)})), {"corpus"}, "manifest.json")


def test_tokenizer_is_not_the_shards(make_recipe: MakeRecipe, corpus_copy: Path) -> None:
    path = corpus_copy / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(content), encoding="utf-8")
    written_by = read_manifest(corpus_copy).tokenizer_sha256[:12]

    problem = only_problem(make_recipe({"corpus": str(corpus_copy)}))

    assert_told(
        problem, {"corpus"}, "not the tokenizer of the shards", written_by, "prepare the corpus again"
    )


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizer_is_damaged(make_recipe: MakeRecipe, corpus_copy: Path, name: str) -> None:
    path = corpus_copy / "tokenizer" / name
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")

    problems = check(make_recipe({"corpus": str(corpus_copy)}))

    assert problems
    assert all(problem.keys == ("corpus",) for problem in problems)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_corpus_has_no_rows_of_a_split(make_recipe: MakeRecipe, corpus_copy: Path, split: str) -> None:
    manifest = read_manifest(corpus_copy)
    shards = [shard for shard in manifest.shards if shard.split != split]
    write_manifest(corpus_copy, manifest.model_copy(update={"shards": shards}))

    problem = only_problem(make_recipe({"corpus": str(corpus_copy)}))

    assert_told(problem, {"corpus"}, f"no {split} rows", "--valid-fraction")


# Model


def test_hidden_size_cannot_be_split_over_the_heads(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"model.hidden_size": 30}))

    assert_told(problem, {"model.hidden_size", "model.num_heads"}, "30", "4 heads", "multiple")


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_model_takes_fewer_tokens_than_rows_have(make_recipe: MakeRecipe, family: str) -> None:
    problem = only_problem(make_recipe({"model.family": family, "model.max_positions": 31}))

    assert_told(
        problem,
        {"model.max_positions", "corpus"},
        *("takes 31 tokens", "rows have 32", "max_positions: 32", "--length 31"),
    )


def test_unknown_model_option(make_recipe: MakeRecipe) -> None:
    problem = only_problem(make_recipe({"model.options": {"hiden_act": "relu"}}))

    assert_told(problem, {"model.options.hiden_act"}, "roberta", "did you mean hidden_act?")


def test_option_of_another_family(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"model.options": {"local_attention": 8}})

    assert_told(
        only_problem(recipe), {"model.options.local_attention"}, "not a setting of the roberta family"
    )
    its_own = {"model.family": "modernbert", "guidance.heads": {"next": 1}}
    assert check(make_recipe({**its_own, "model.options": {"local_attention": 8}})) == []


@pytest.mark.parametrize("option", [{"hidden_act": "gelo"}, {"vocab_size": 599}, {"vocab_size": "many"}])
def test_option_with_an_impossible_value(make_recipe: MakeRecipe, option: dict[str, Any]) -> None:
    """The corpus has 600 tokens."""
    problems = check(make_recipe({"model.options": option}))

    assert any(key.startswith("model.options") for problem in problems for key in problem.keys)


def test_larger_vocabulary_than_the_tokenizers_is_fine(make_recipe: MakeRecipe) -> None:
    assert check(make_recipe({"model.options": {"vocab_size": 640}})) == []


def test_checkpoint_without_safetensors(make_recipe: MakeRecipe, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")

    problem = only_problem(from_checkpoint(make_recipe, checkpoint))

    assert_told(problem, {"model.checkpoint"}, str(checkpoint), "config.json and *.safetensors")


def test_checkpoint_is_missing(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    problem = only_problem(from_checkpoint(make_recipe, tmp_path / "nowhere"))

    assert_told(problem, {"model.checkpoint"}, "nowhere")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("family", "roberta"),
        ("num_layers", 12),
        ("options", {"hidden_act": "relu"}),
        ("dropout", 0.3),
        ("attention_dropout", 0.3),
    ],
)
def test_what_a_checkpoint_decides_cannot_be_set_beside_it(
    make_recipe: MakeRecipe, checkpoint: Path, key: str, value: Any
) -> None:
    """A value that is read and then forgotten would be the worst answer."""
    problem = only_problem(from_checkpoint(make_recipe, checkpoint, **{key: value}))

    assert_told(problem, {f"model.{key}", "model.checkpoint"}, "the checkpoint decides it", "remove one")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, ("'gpt2'", "no masked-LM class")),
        ({"model_type": "bart"}, ("'bart'", "decoder")),
        ({"is_decoder": True}, ("'roberta'", "is_decoder: true")),
    ],
)
def test_checkpoint_of_no_encoder(
    make_recipe: MakeRecipe, checkpoint: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")

    assert_told(only_problem(from_checkpoint(make_recipe, checkpoint)), {"model.checkpoint"}, *words)


def test_checkpoint_config_is_damaged(make_recipe: MakeRecipe, checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{", encoding="utf-8")

    assert "model.checkpoint" in only_problem(from_checkpoint(make_recipe, checkpoint)).keys


def test_checkpoint_with_the_tokenizer_saved_anew_is_fine(make_recipe: MakeRecipe, checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")

    assert check(from_checkpoint(make_recipe, checkpoint)) == []


def test_checkpoint_has_another_tokenizer(make_recipe: MakeRecipe, checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(content), encoding="utf-8")

    problem = only_problem(from_checkpoint(make_recipe, checkpoint))

    assert_told(problem, {"model.checkpoint", "corpus"}, f"--tokenizer {checkpoint}")


def test_checkpoint_has_fewer_embeddings_than_the_tokenizer_tokens(
    make_recipe: MakeRecipe, checkpoint: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps(config | {"vocab_size": 97}), encoding="utf-8")

    problem = only_problem(from_checkpoint(make_recipe, checkpoint))

    assert_told(problem, {"model.checkpoint", "corpus"}, "97", "600")


# All together


def test_everything_wrong_is_told_at_once(
    tiny_recipe: MakeSettings, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = tiny_recipe(
        {
            "corpus": str(tmp_path / "nowhere"),
            "train.global_batch_size": 9,
            "train.num_stepps": 3,
            "train.deepspeed": "zero9",
            "optimizer.learning_rate": "fast",
            "guidance.heads": {"next": 5, "upwards": 1},
            "schedule.warmup": 100,
        }
    )

    with pytest.raises(RecipeError) as caught:
        load_checked_recipe(str(write_recipe(recipe)), [], World(world_size=2, on_cuda=False))

    message = str(caught.value)
    assert "recipe.yaml has 8 problems" in message
    for word in (
        "nowhere",
        "9 rows",
        "num_stepps",
        "zero9",
        "'fast'",
        "6 guided heads",
        "pattern 'upwards'",
        "100 steps",
    ):
        assert message.count(word) == 1, word


def test_consequence_of_a_mistake_is_not_told_beside_it(
    tiny_recipe: MakeSettings, write_recipe: Callable[..., Path]
) -> None:
    """Without its heads, the guided ones would seem too many."""
    recipe = tiny_recipe({"model.num_heads": 0, "guidance.heads": {"next": 13}})

    with pytest.raises(RecipeError) as caught:
        load_checked_recipe(str(write_recipe(recipe)), [], ONE_CPU)

    assert "1 problem:" in str(caught.value)


def test_overrides_are_checked_with_the_file(
    tiny_recipe: MakeSettings, write_recipe: Callable[..., Path]
) -> None:
    path = str(write_recipe(tiny_recipe({"train.num_steps": -1})))

    recipe = load_checked_recipe(path, ["train.num_steps=3", "guidance.weight=0"], ONE_CPU)

    assert recipe.train.num_steps == 3
    assert not recipe.guided


def test_written_recipe_is_the_recipe(tiny_recipe: MakeSettings, write_recipe: Callable[..., Path]) -> None:
    settings = tiny_recipe()

    recipe = load_checked_recipe(str(write_recipe(settings)), [], ONE_CPU)

    assert recipe == parse_recipe(settings)[0]
    assert yaml.safe_load(write_recipe(settings).read_text(encoding="utf-8")) == settings


# Compilation


@pytest.mark.parametrize("stage", ["zero3", "zero3_offload"])
def test_blocks_cannot_be_compiled_at_the_last_stage(make_recipe: MakeRecipe, stage: str) -> None:
    recipe = make_recipe({"train.compile": True, "train.deepspeed": stage})

    assert_told(
        only_problem(recipe), {"train.compile", "train.deepspeed"}, "stage 3", "zero2", "auto or false"
    )


@pytest.mark.parametrize(("setting", "stage"), [(True, "zero2"), ("auto", "zero3"), (False, "zero3")])
def test_other_choices_about_compilation_are_in_order(
    make_recipe: MakeRecipe, setting: bool | str, stage: str
) -> None:
    assert check(make_recipe({"train.compile": setting, "train.deepspeed": stage})) == []
