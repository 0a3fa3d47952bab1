"""Plans of a corpus that is yet to be prepared: what they take for granted, and what they leave open."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.format import read_manifest
from pipeline.__main__ import main
from pipeline.config.assumed_corpus import AssumedCorpus
from pipeline.config.checks import World, check_recipe
from pipeline.config.schema import Recipe
from pipeline.data.corpus import Vocabulary
from pipeline.planning.plan import make_plan

MakeRecipe = Callable[..., Recipe]
WORLD = World(world_size=2, on_cuda=False)
ABSENT = {"corpus": "corpora/nowhere"}
OPTIONS = ["--assume-length", "32", "--assume-vocabulary", "600"]


def assumed_plan(recipe: Recipe, length: int = 32, vocabulary: int = 600) -> dict[str, Any]:
    return make_plan(recipe, WORLD, assumed=AssumedCorpus(length, vocabulary))


def problems_of(recipe: Recipe, length: int = 32) -> list[str]:
    return [str(problem) for problem in check_recipe(recipe, WORLD, AssumedCorpus(length, 600))]


def test_what_needs_no_rows_is_as_with_the_corpus(
    make_recipe: MakeRecipe, tiny_corpus: Path, vocabulary: Vocabulary
) -> None:
    masked = {"data.attend_across_documents": False}  # the tiny corpus has some padding, so rows have masks
    real = make_plan(make_recipe(masked), WORLD)
    found = assumed_plan(make_recipe({**masked, **ABSENT}), 32, vocabulary.size)

    for key in (
        "parameters",
        "embedding_parameters",
        "sequence_length",
        "steps",
        "guidance",
        "communication",
    ):
        assert found[key] == real[key], key
    memory, expected = (dict(plan["memory_bytes_per_process"]) for plan in (found, real))
    # A real row may be padded: its mask is made, though another one is used.
    near = {"passing", "malloc"}
    assert {key for key in memory if memory[key] != expected[key]} <= {"corpus", "resident"} | near
    assert all(memory[key] == pytest.approx(expected[key], rel=0.05) for key in near)
    assert (found["assumed"]["sequence_length"], real["assumed"]) == (32, None)


def test_rows_are_full_and_passes_not_known(make_recipe: MakeRecipe) -> None:
    found = assumed_plan(make_recipe({"train.num_steps": 100, "train.global_batch_size": 8, **ABSENT}), 128)

    assert found["tokens"] == 100 * 8 * 128
    assert found["tokens_per_step"] == 8 * 128
    assert (found["epochs"], found["epochs_by_corpus"]) == (None, {})
    assert found["assumed"]["corpora"] == ["corpora/nowhere"]
    assert "passes over the corpus" in found["assumed"]["unknown"]


def test_all_phases_are_assumed_alike_and_told_apart(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**ABSENT, "curriculum": [{"until": 3, "corpus": "corpora/neither"}]})

    found = assumed_plan(recipe)

    assert problems_of(recipe) == []
    assert [phase["sequence_length"] for phase in found["phases"]] == [32, 32]
    assert found["assumed"]["corpora"] == ["corpora/nowhere", "corpora/neither"]


@pytest.mark.parametrize(
    ("settings", "length", "told"),
    [
        ({"model.max_positions": 16}, 32, "the model takes 16 tokens but the corpus's rows have 32"),
        ({"model.options": {"vocab_size": 599}}, 32, "599 is less than the tokenizer's 600 tokens"),
        ({"guidance.heads": {"offset+32": 1}}, 32, "points outside rows of 32 tokens"),
        ({"train.global_batch_size": 7}, 32, "7 rows cannot be shared by 2 processes"),
        ({"curriculum": [{"until": 3}]}, 32, "so it changes nothing"),
    ],
)
def test_what_can_be_checked_is_checked(
    make_recipe: MakeRecipe, settings: dict[str, Any], length: int, told: str
) -> None:
    (problem,) = problems_of(make_recipe({**settings, **ABSENT}), length)

    assert told in problem


def test_tokens_of_patterns_are_not_looked_for(make_recipe: MakeRecipe) -> None:
    heads = {"guidance.heads": {"delimiters": 1}, "guidance.delimiters": ["no such token"]}

    assert problems_of(make_recipe({**heads, **ABSENT})) == []


def test_a_checkpoint_is_planned_though_its_tokenizer_cannot_be_compared(
    make_recipe: MakeRecipe, tiny_corpus: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    from pipeline.encoder.model import build_model

    build_model(make_recipe().model, vocabulary, 32, 0).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((tiny_corpus / "tokenizer" / "tokenizer.json").read_bytes())
    recipe = make_recipe({"model": {"checkpoint": str(tmp_path)}, **ABSENT})

    assert problems_of(recipe) == []
    assert any("takes 32 tokens" in problem for problem in problems_of(recipe, 33))


# The command


@pytest.fixture
def absent(tiny_recipe: Callable, write_recipe: Callable) -> str:
    return str(write_recipe(tiny_recipe(ABSENT)))


def test_people_are_told_what_was_assumed(absent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", absent, *OPTIONS]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=1) == [
        "assumed",
        "corpora/nowhere to have full rows of 32 tokens and a vocabulary of 600",
    ]
    assert lines[1].startswith("not known         passes over the corpus; padding and")
    assert not any("passes over" in line for line in lines[2:])


def test_json_has_it_too(absent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", absent, *OPTIONS, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["assumed"]["vocabulary_size"] == 600
    assert found["epochs"] is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (OPTIONS[:2], "--assume-length without --assume-vocabulary"),
        (OPTIONS[2:], "--assume-vocabulary without --assume-length"),
    ],
)
def test_one_option_needs_the_other(
    absent: str, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", absent, *options]) == 64

    error = capsys.readouterr().err
    assert told in error
    assert "--assume-length 512 --assume-vocabulary 32000" in error


@pytest.mark.parametrize("place", ["own", "phase"])
def test_a_corpus_that_exists_is_not_assumed(
    place: str,
    tiny_recipe: Callable,
    write_recipe: Callable,
    tiny_corpus: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    phase = {**ABSENT, "curriculum": [{"until": 3, "corpus": str(tiny_corpus)}]}
    recipe = write_recipe(tiny_recipe() if place == "own" else tiny_recipe(phase))

    assert main(["plan", str(recipe), *OPTIONS]) == 64
    assert f"the recipe's corpus {tiny_corpus} exists" in capsys.readouterr().err


def test_without_the_options_the_corpus_is_needed(absent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", absent]) == 78
    assert "corpora/nowhere does not exist" in capsys.readouterr().err


def test_an_assumed_manifest_is_of_the_row_type_that_shards_would_have() -> None:
    small, large = (AssumedCorpus(8, size).manifest_of(Path("c")).token_dtype for size in (600, 70_000))

    assert (small, large) == ("uint16", "uint32")


def test_the_real_corpus_is_not_touched(tiny_corpus: Path) -> None:
    manifest = AssumedCorpus(64, 600).manifest_of(tiny_corpus)

    assert manifest.sequence_length == 64
    assert read_manifest(tiny_corpus).sequence_length == 32
