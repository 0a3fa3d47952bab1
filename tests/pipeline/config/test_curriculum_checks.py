"""Rules about the phases of a curriculum. The recipe's own batches have 8 rows, and its rows 32 tokens."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.checks import World
from pipeline.config.load import parse_recipe
from pipeline.config.schema import Recipe
from tests.pipeline.config.checking import assert_told, check, only_problem

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def make(make_recipe: MakeRecipe, short_corpus: Path) -> Callable[..., Recipe]:
    """A recipe of twelve steps with phases, of rows of 16 tokens unless they name another corpus."""

    def build(*phases: dict[str, Any], **overrides: Any) -> Recipe:
        curriculum = [{"corpus": str(short_corpus)} | phase for phase in phases]
        return make_recipe({"curriculum": curriculum} | overrides)

    return build


def changed_corpus(corpus: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """A copy whose manifest says something else."""
    shutil.copytree(corpus, path)
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return str(path)


def test_phases_are_resolved_with_the_recipes_own_values(
    make: Callable[..., Recipe], short_corpus: Path
) -> None:
    recipe = make({"until": 0.25, "global_batch_size": 4}, {"until": 7, "micro_batch_size": 2})

    assert check(recipe) == []
    found = [
        (phase.first_step, phase.end_step, phase.corpus, phase.global_batch_size, phase.micro_batch_limit)
        for phase in recipe.phases
    ]
    assert found == [
        (0, 3, str(short_corpus), 4, 4),
        (3, 7, str(short_corpus), 8, 2),
        (7, 12, recipe.corpus, 8, 4),
    ]
    assert recipe.micro_batch_size(1) == 4


def test_without_a_curriculum_there_is_one_phase(make_recipe: MakeRecipe) -> None:
    (phase,) = make_recipe().phases

    assert (phase.first_step, phase.end_step, phase.global_batch_size) == (0, 12, 8)


@pytest.mark.parametrize(
    ("ends", "key", "words"),
    [
        ((0, 6), "curriculum.0.until", ("found 0", "step 0", "begins at step 0")),
        ((0.01, 6), "curriculum.0.until", ("found 0.01", "step 0")),
        ((6, 6), "curriculum.1.until", ("found 6", "begins at step 6", "later end")),
        ((6, 0.25), "curriculum.1.until", ("found 0.25", "step 3", "begins at step 6")),
    ],
)
def test_phases_out_of_order(
    make: Callable[..., Recipe], ends: tuple[float, float], key: str, words: tuple[str, ...]
) -> None:
    first, second = ends
    recipe = make({"until": first, "global_batch_size": 4}, {"until": second})

    assert_told(only_problem(recipe), {key}, *words)


@pytest.mark.parametrize("end", [12, 1.0, 400])
def test_a_phase_that_leaves_nothing_for_the_last(make: Callable[..., Recipe], end: float) -> None:
    problem = only_problem(make({"until": end}))

    assert_told(problem, {"curriculum.0.until", "train.num_steps"}, f"found {end}", "of 12", "earlier")


def test_a_phase_like_the_recipe_itself_changes_nothing(
    make: Callable[..., Recipe], tiny_corpus: Path
) -> None:
    own = {"corpus": str(tiny_corpus), "global_batch_size": 8}

    problem = only_problem(make({"until": 3}, {"until": 6, **own}))

    assert_told(problem, {"curriculum.1"}, "the recipe itself", "8 rows", "4 per process", "remove it")


def test_a_phase_like_the_next_changes_nothing(
    make: Callable[..., Recipe], short_corpus: Path, tmp_path: Path
) -> None:
    """A copy of a corpus is the same corpus."""
    copy = shutil.copytree(short_corpus, tmp_path / "copy")

    problem = only_problem(make({"until": 3}, {"until": 6, "corpus": str(copy)}))

    assert_told(problem, {"curriculum.0"}, "the next phase", "remove it")


def test_other_micro_batches_are_a_change(make: Callable[..., Recipe]) -> None:
    assert check(make({"until": 3}, {"until": 6, "micro_batch_size": 8})) == []


def test_a_corpus_that_is_none_is_told_once(make: Callable[..., Recipe]) -> None:
    nowhere = {"corpus": "nowhere", "global_batch_size": 4}

    problem = only_problem(make({"until": 3, **nowhere}, {"until": 6, "corpus": "nowhere"}))

    assert_told(problem, {"curriculum.0.corpus"}, "nowhere does not exist")


def test_a_corpus_of_another_tokenizer(
    make: Callable[..., Recipe], short_corpus: Path, tmp_path: Path
) -> None:
    other = changed_corpus(
        short_corpus, tmp_path / "other", lambda manifest: manifest.update(tokenizer_sha256="f" * 64)
    )

    problem = only_problem(make({"until": 3, "corpus": other}))

    assert_told(
        problem, {"curriculum.0.corpus", "corpus"}, "another tokenizer", "ffffffffffff", "--length 16"
    )


def test_a_corpus_without_rows_to_train(
    make: Callable[..., Recipe], short_corpus: Path, tmp_path: Path
) -> None:
    def keep_valid(manifest: dict[str, Any]) -> None:
        manifest["shards"] = [shard for shard in manifest["shards"] if shard["split"] == "valid"]

    problem = only_problem(
        make({"until": 3, "corpus": changed_corpus(short_corpus, tmp_path / "o", keep_valid)})
    )

    assert_told(problem, {"curriculum.0.corpus"}, "no train rows")


def test_every_batch_must_be_shared_by_the_processes(make: Callable[..., Recipe]) -> None:
    recipe = make({"until": 3, "global_batch_size": 6}, {"until": 6, "global_batch_size": 12})

    problem = only_problem(recipe, World(world_size=4, on_cuda=False))

    assert_told(problem, {"curriculum.0.global_batch_size"}, "6 rows", "start 2 of them", "4 or 8")
    assert check(recipe, World(world_size=2, on_cuda=False)) == []


def test_all_batches_that_do_not_fit_are_told(make: Callable[..., Recipe]) -> None:
    recipe = make({"until": 3, "global_batch_size": 4}, {"until": 6})

    problems = check(recipe, World(world_size=3, on_cuda=False))

    assert [problem.keys for problem in problems] == [
        ("train.global_batch_size",),
        ("curriculum.0.global_batch_size",),
    ]
    assert all("start 2 of them" in problem.message for problem in problems)


def test_positions_reach_the_longest_rows_of_any_phase(
    make: Callable[..., Recipe], short_corpus: Path, tiny_corpus: Path
) -> None:
    """Here those of the first phase."""
    phase, own = {"until": 3, "corpus": str(tiny_corpus)}, {"corpus": str(short_corpus)}
    assert check(make(phase, **own)) == []

    problem = only_problem(make(phase, **own, **{"model.max_positions": 20}))

    keys = {"model.max_positions", "curriculum.0.corpus"}
    assert_told(problem, keys, "takes 20 tokens", "rows have 32", "max_positions: 32")


def test_patterns_must_reach_in_every_phase(make: Callable[..., Recipe]) -> None:
    recipe = make({"until": 3}, **{"guidance.heads": {"next": 1, "offset+20": 1}})

    problem = only_problem(recipe)

    assert_told(problem, {"guidance.heads.offset+20"}, "rows of 16 tokens")


def test_what_no_length_reaches_is_told_once(make: Callable[..., Recipe]) -> None:
    problem = only_problem(make({"until": 3}, **{"guidance.heads": {"offset+40": 1}}))

    assert_told(problem, {"guidance.heads.offset+40"}, "rows of 16 tokens")


def test_local_layers_that_reach_in_short_rows_only(make: Callable[..., Recipe]) -> None:
    local = {"local_attention": 36, "global_attn_every_n_layers": 2}
    settings = {"model.family": "modernbert", "model.options": local, "guidance.heads": {"last": 1}}

    problem = only_problem(make({"until": 3}, **settings))

    assert_told(problem, {"guidance.layers", "guidance.heads.last"}, "layers [1]", "rows of 32 tokens")


@pytest.mark.parametrize(
    ("phase", "key", "words"),
    [
        ({"until": 3, "corpsu": "c"}, "curriculum.0.corpsu", "did you mean curriculum.corpus?"),
        ({"until": 3, "precision": "fp32"}, "curriculum.0.precision", "did you mean train.precision?"),
        ({"corpus": "c"}, "curriculum.0.until", "is required"),
        ({"until": 1.5}, "curriculum.0.until", "found 1.5, write a number of steps"),
        ({"until": 3, "global_batch_size": 0}, "curriculum.0.global_batch_size", "greater than 0"),
    ],
)
def test_keys_of_a_phase_are_checked_like_all_others(
    tiny_recipe: Callable[..., dict[str, Any]], phase: dict[str, Any], key: str, words: str
) -> None:
    _, problems = parse_recipe(tiny_recipe({"curriculum": [phase]}))

    (problem,) = problems
    assert_told(problem, {key}, words)


def test_all_problems_are_told_together(make: Callable[..., Recipe]) -> None:
    recipe = make(
        {"until": 0, "corpus": "nowhere"}, {"until": 12, "global_batch_size": 6}, **{"model.max_positions": 8}
    )

    keys = {key for problem in check(recipe, World(world_size=4, on_cuda=False)) for key in problem.keys}

    assert keys == {
        *("curriculum.0.until", "curriculum.0.corpus", "curriculum.1.until", "train.num_steps"),
        *("curriculum.1.global_batch_size", "model.max_positions", "corpus"),
    }
