from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.format import read_manifest
from pipeline.config.schema import Recipe
from pipeline.errors import CheckpointError, UsageError
from pipeline.runs.run_dir import RunDir, describe_environment, read_json_lines, recipe_differences
from tests.pipeline.tiny_models import tiny_model

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def run(tmp_path: Path, make_recipe: MakeRecipe) -> RunDir:
    """A run directory that was just created."""
    run = RunDir(tmp_path / "run")
    run.create(make_recipe(), {"commit": "abc"})
    return run


def test_recipe_comes_back_as_it_was(run: RunDir, make_recipe: MakeRecipe) -> None:
    assert run.read_recipe() == make_recipe()


def test_every_kind_of_value_survives_writing(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        {
            "optimizer.learning_rate": 1e-05,
            "optimizer.eps": 1e-12,
            "guidance.heads": {"offset-3": 1, "next": 1, "first": 2},
            "guidance.layers": [1],
            "guidance.plateau": 1.0,
            "schedule.warmup": 1,
            "evaluation.max_rows": None,
            "model.options": {"hidden_act": "relu", "layer_norm_eps": 1e-12},
        }
    )
    run = RunDir(tmp_path / "other")
    run.create(recipe, {})

    found = run.read_recipe()

    assert found == recipe
    assert list(found.guidance.heads) == ["offset-3", "next", "first"]  # the order gives out the heads
    assert recipe_differences(found, recipe) == []


GUIDANCE = {
    "no heads": {"heads": {}},
    "preset": {"heads": "clark"},
    "table": {"heads": {"1-": {"offset-3": 1, "next": 1}, "0-0": {"first": 2}}},
    "tokens": {"heads": {"sentence_ends": 1, "delimiters": 2}, "sentence_ends": [".", "»"]},
    "sampling": {"heads": {"next": 1}, "layers_per_step": 0.3, "layer_weights": [1.0, 0.5], "row_stride": 4},
    "every layer": {"heads": {"next": 1}, "layers_per_step": None},
    "measured": {"heads": {"next": 1}, "dense": "formed", "formed_mass": 0.25},
    "dense steps": {"heads": {"next": 1}, "dense": 100},
    "dense share": {"heads": {"next": 1}, "dense": 0.0},
    "alpha": {"heads": {"next": 1}, "alpha": 100.0, "normalization": "authors"},
    "cross-entropy": {"heads": {"next": 1}, "error": "cross_entropy", "weight": 0.0625},
    "bias": {"heads": {"next": 1}, "method": "bias", "bias": 3.5, "plateau": 0, "end": 0.25},
}


@pytest.mark.parametrize("guidance", GUIDANCE.values(), ids=GUIDANCE)
def test_every_kind_of_guidance_survives_writing(
    tmp_path: Path, make_recipe: MakeRecipe, guidance: dict[str, Any]
) -> None:
    recipe = make_recipe({"guidance": guidance})
    run = RunDir(tmp_path / "other")
    run.create(recipe, {})

    found = run.read_recipe()

    assert found == recipe
    assert type(found.guidance.dense) is type(recipe.guidance.dense)  # 1 is a step, 1.0 the whole run
    assert list(found.guidance.heads) == list(recipe.guidance.heads)
    assert recipe_differences(found, recipe) == []


def test_only_what_changes_the_numbers_is_a_difference(make_recipe: MakeRecipe) -> None:
    """Workers and compilation do not, beyond rounding; what attention sees does."""
    changed = make_recipe(
        {"data.num_workers": 2, "train.compile": True, "data.attend_across_documents": False}
    )

    assert recipe_differences(make_recipe(), changed) == [("data.attend_across_documents", True, False)]


def test_recipe_of_a_checkpoint_start_comes_back(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    checkpoint = tmp_path / "checkpoint"
    tiny_model("bert").save_pretrained(checkpoint)
    recipe = make_recipe({"model": {"checkpoint": str(checkpoint)}})
    run = RunDir(tmp_path / "run")
    run.create(recipe, {})

    found = run.read_recipe()

    assert found.model.checkpoint == str(checkpoint)
    assert recipe_differences(found, recipe) == []


def test_a_run_is_what_has_a_recipe(tmp_path: Path, run: RunDir) -> None:
    assert run.holds_run()
    assert RunDir.open(str(run.path)).read_recipe() == run.read_recipe()
    with pytest.raises(UsageError, match=r"nothing holds no run"):
        RunDir.open(str(tmp_path / "nothing"))


def test_directory_that_cannot_be_written_is_told(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    with pytest.raises(CheckpointError, match="cannot write the run directory"):
        RunDir(tmp_path / "file" / "run").create(make_recipe(), {})


# Events


def test_events_come_back_in_order(run: RunDir) -> None:
    run.add_event("start", world_size=2)
    run.add_event("checkpoint", step=4)

    events = run.read_events()

    assert [(event["event"], event.get("step")) for event in events] == [("start", None), ("checkpoint", 4)]
    assert all(event["time"].endswith("+00:00") for event in events)


def test_no_events_yet(tmp_path: Path) -> None:
    assert RunDir(tmp_path / "run").read_events() == []


def test_event_cut_short_by_a_crash_is_left_out(run: RunDir) -> None:
    run.add_event("start")
    with run.events_file.open("a", encoding="utf-8") as file:
        file.write('{"time": "2026-01-01T00:00:00+00:00", "eve')

    assert [event["event"] for event in run.read_events()] == ["start"]


def test_event_after_one_cut_short_is_not_lost(run: RunDir) -> None:
    run.add_event("start")
    with run.events_file.open("a", encoding="utf-8") as file:
        file.write('{"time": "2026-01-01T00:00:00+00:00", "eve')

    run.add_event("resume")

    assert [event["event"] for event in run.read_events()] == ["start", "resume"]


def test_json_lines_of_a_missing_or_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("", encoding="utf-8")

    assert read_json_lines(tmp_path / "missing") == []
    assert read_json_lines(tmp_path / "empty") == []


# Differences


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2),
        ("optimizer.learning_rate", 2e-3),
        ("train.num_steps", 13),
        ("train.global_batch_size", 16),
        ("model.num_layers", 3),
        ("guidance.heads", {"next": 1}),
        ("guidance.heads", "paper"),
        ("guidance.heads", {"0-1": {"next": 1, "previous": 1, "first": 1}}),
        ("guidance.layers", [0]),
        ("guidance.weight", 3.5),
        ("guidance.error", "cross_entropy"),
        ("guidance.normalization", "authors"),
        ("guidance.plateau", 0.6),
        ("guidance.end", 0.9),
        ("guidance.formed_mass", 0.6),
        ("guidance.layers_per_step", 2),
        ("guidance.layers_per_step", None),
        ("guidance.layer_weights", [1.0, 2.0]),
        ("guidance.row_stride", 2),
        ("objective.mask_rate", 0.2),
        ("schedule.warmup", 3),
        ("curriculum", [{"until": 3, "global_batch_size": 4}]),
    ],
)
def test_what_changes_the_result_is_a_difference(make_recipe: MakeRecipe, key: str, value: Any) -> None:
    old, new = make_recipe(), make_recipe({key: value})

    differences = recipe_differences(old, new)

    assert differences
    assert all(name.startswith(key) for name, _, _ in differences)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_dir", "elsewhere"),
        ("corpus", "elsewhere"),  # compared by content, wherever it lies
        ("data.num_workers", 3),
        ("evaluation.every_steps", 1),
        ("checkpoint.keep_last", 9),
        ("logging.every_steps", 1),
        ("recovery.max_bad_steps", 9),
        ("recovery.spike_sigmas", None),
        ("train.micro_batch_size", 2),
    ],
)
def test_what_does_not_change_the_result_may_differ(make_recipe: MakeRecipe, key: str, value: Any) -> None:
    assert recipe_differences(make_recipe(), make_recipe({key: value})) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"until": 4}, True),
        ({"global_batch_size": 2}, True),
        ({"corpus": "elsewhere"}, False),  # compared by content
        ({"micro_batch_size": 2}, False),
    ],
)
def test_phases_are_compared_like_the_recipes_own_values(
    make_recipe: MakeRecipe, change: dict[str, Any], expected: bool
) -> None:
    phase = {"until": 3, "corpus": "short", "global_batch_size": 4, "micro_batch_size": 4}
    old, new = (make_recipe({"curriculum": [phase | changed]}) for changed in ({}, change))

    assert [key for key, _, _ in recipe_differences(old, new)] == (["curriculum"] if expected else [])


def test_both_values_are_given(make_recipe: MakeRecipe) -> None:
    assert recipe_differences(make_recipe(), make_recipe({"seed": 5})) == [("seed", 1, 5)]


def test_other_order_of_heads_is_a_difference(make_recipe: MakeRecipe) -> None:
    """Heads are given out in the order written: the run would go on with other patterns."""
    old = make_recipe({"guidance.heads": {"next": 1, "first": 1}})
    new = make_recipe({"guidance.heads": {"first": 1, "next": 1}})

    assert recipe_differences(old, new) == [("guidance.heads", ["next", "first"], ["first", "next"])]


def test_other_tokens_of_a_pattern_are_a_difference(make_recipe: MakeRecipe) -> None:
    old, new = (
        make_recipe({"guidance.heads": {"sentence_ends": 1}, "guidance.sentence_ends": texts})
        for texts in (["."], [".", "!"])
    )

    assert recipe_differences(old, new) == [("guidance.sentence_ends", ["."], [".", "!"])]


def test_a_choice_is_a_difference_with_the_keys_that_come_and_go(make_recipe: MakeRecipe) -> None:
    measured = make_recipe({"guidance.weight": ...})
    counted = make_recipe({"guidance.weight": ..., "guidance.dense": 4})
    biased = make_recipe({"guidance.weight": ..., "guidance.method": "bias"})

    assert recipe_differences(measured, counted) == [
        ("guidance.dense", "formed", 4),
        ("guidance.formed_mass", 0.5, None),
    ]
    differences = {key: (before, after) for key, before, after in recipe_differences(counted, biased)}
    assert differences["guidance.method"] == ("loss", "bias")
    assert differences["guidance.bias"] == (None, 8.0)
    assert differences["guidance.dense"] == (4, None)
    assert "guidance.formed_mass" not in differences


def test_other_order_of_options_is_none(make_recipe: MakeRecipe) -> None:
    old = make_recipe({"model.options": {"hidden_act": "relu", "layer_norm_eps": 1e-9}})
    new = make_recipe({"model.options": {"layer_norm_eps": 1e-9, "hidden_act": "relu"}})

    assert recipe_differences(old, new) == []


def test_environment_says_what_ran(make_recipe: MakeRecipe) -> None:
    found = describe_environment(make_recipe(), {"zero_optimization": {}}, world_size=4)

    assert found["world_size"] == 4
    assert found["versions"]["torch"]
    assert found["started_in"] == str(Path.cwd())
    assert len(found["corpus_sha256"]) == 64
    assert found["curriculum_sha256"] == []
    assert found["deepspeed_config"] == {"zero_optimization": {}}


def test_environment_has_the_content_of_every_phases_corpus(
    make_recipe: MakeRecipe, short_corpus: Path, tiny_corpus: Path
) -> None:
    phases = [{"until": 3, "corpus": str(short_corpus)}, {"until": 5, "global_batch_size": 4}]

    found = describe_environment(make_recipe({"curriculum": phases}), {}, world_size=1)

    hashes = [read_manifest(corpus).content_sha256() for corpus in (short_corpus, tiny_corpus)]
    assert found["curriculum_sha256"] == hashes
    assert found["corpus_sha256"] == hashes[1]
