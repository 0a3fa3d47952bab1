"""Compiled runs: the losses of uncompiled ones, and resumed to the bit; machines that cannot compile."""

import sys
from pathlib import Path

import pytest

from pipeline.__main__ import main
from tests.e2e.running import (
    Finished,
    compare_killed_run,
    last_evaluation,
    losses,
    overrides,
    read_metrics,
    run_command,
    train,
)

COMPILED = {"train__compile": "true"}


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    """All layers at first, then one of them and one row in two; documents apart."""
    return recipe_file(
        guidance={
            "heads": {"next": 1, "previous": 1, "first": 1},
            "dense": 3,
            "layers_per_step": 1,
            "row_stride": 2,
        },
        train={"num_steps": 8, "micro_batch_size": 2},
        data={"attend_across_documents": False},
        evaluation={"every_steps": 4},
        logging={"every_steps": 1},
    )


@pytest.fixture(scope="module")
def uncompiled(recipe, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("uncompiled") / "run"
    assert train(recipe, *overrides(run_dir=run_dir), launcher="processes").code == 0
    return run_dir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "checkpointing"), [("zero0", "false"), ("zero1", "true"), ("zero2", "false")]
)
def test_compiled_run_has_the_losses_of_an_uncompiled_one(recipe, uncompiled, tmp_path, stage, checkpointing):
    settings = {"train__deepspeed": stage, "train__activation_checkpointing": checkpointing}
    finished = train(
        recipe, *overrides(run_dir=tmp_path / "run", **COMPILED, **settings), launcher="processes"
    )
    assert finished.code == 0, finished.output
    assert "does not work here" not in finished.output
    assert losses(tmp_path / "run") == pytest.approx(losses(uncompiled), rel=2e-5)
    assert losses(tmp_path / "run") != losses(uncompiled)  # other kernels, other rounding: it is compiled


def test_evaluation_attends_as_training_did(uncompiled):
    """The command, which has no engine and compiles nothing, finds the loss that the run found at its end."""
    assert main(["evaluate", str(uncompiled), "--limit", "16"]) == 0  # as the recipe says
    evaluated = last_evaluation(uncompiled, "held_out")["numbers"]
    assert evaluated["loss"] == pytest.approx(read_metrics(uncompiled, "valid")[-1]["loss"], rel=1e-5)


@pytest.mark.slow
def test_killed_and_resumed_compiled_equals_undisturbed(recipe_file, tmp_path):
    """As test_resume.py, with dropout, which compiled kernels draw in their own way."""
    recipe = recipe_file(
        model={"dropout": 0.1, "attention_dropout": 0.1},
        guidance={"heads": {"next": 1, "first": 1}, "dense": 4, "layers_per_step": 1},
        train={"num_steps": 20, "deepspeed": "zero2", "compile": True},
        checkpoint={"every_steps": 5},
        logging={"every_steps": 1},
    )
    result = compare_killed_run(recipe, tmp_path / "run", kill_at=8, compare_until=16)
    assert result["identical"]
    assert result["resumed_at_step"] >= 5


@pytest.mark.slow
def test_one_process_without_a_compiler_is_enough_for_none_to_compile(recipe, uncompiled, tmp_path):
    finished = train_with_one_broken(recipe, tmp_path)
    assert finished.code == 0, finished.output
    assert finished.output.count("torch.compile does not work here") == 1
    assert "process 1: " in finished.output
    assert losses(tmp_path / "run") == losses(uncompiled)


def train_with_one_broken(recipe: Path, tmp_path: Path) -> Finished:
    module = [sys.executable, "-m", "tests.e2e.broken_rank", "no-compiler", "1", "0"]
    settings = overrides(run_dir=tmp_path / "run", **COMPILED)
    return run_command([*module, str(recipe), *settings])
