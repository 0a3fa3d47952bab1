"""The same run at every ZeRO stage and number of processes: same rows, same masks, losses to rounding."""

from pathlib import Path

import pytest
import torch

from pipeline.__main__ import main
from pipeline.checkpoints.manifest import newest_usable
from pipeline.weights import read_weights
from tests.e2e.running import losses, overrides, read_metrics, train

NUM_STEPS = 20
STAGES = ["zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"]


def run(recipe: Path, run_dir: Path, launcher: str, **settings: object) -> Path:
    settings = {"run_dir": run_dir, "train__num_steps": NUM_STEPS, "logging__every_steps": 1, **settings}
    finished = train(recipe, *overrides(**settings), launcher=launcher)
    assert finished.code == 0, finished.output
    return run_dir


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    """Guided in all layers for half the run, then in one layer per step; two micro-steps per step."""
    return recipe_file(
        guidance={"heads": {"next": 1, "previous": 1, "first": 1}, "dense": 0.5, "layers_per_step": 1},
        train={"micro_batch_size": 2},
    )


@pytest.fixture(scope="module")
def one_process(recipe, tmp_path_factory) -> Path:
    return run(recipe, tmp_path_factory.mktemp("one") / "run", "none", train__deepspeed="zero1")


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_as_one(recipe, one_process, tmp_path, capsys, stage):
    two = run(recipe, tmp_path / "run", "processes", train__deepspeed=stage)
    expected, found = read_metrics(one_process), read_metrics(two)
    assert losses(two) == pytest.approx(losses(one_process), rel=2e-5)
    assert [line["tokens"] for line in found] == [line["tokens"] for line in expected]
    assert [line["rows_digest"] for line in found] == [line["rows_digest"] for line in expected]
    for key in ("guidance_loss", "gradient_norm"):
        assert [line[key] for line in found] == pytest.approx([line[key] for line in expected], rel=1e-3)

    assert main(["export", str(two)]) == 0
    assert "same logits as the run" in capsys.readouterr().out
    assert_same_weights(one_process, two)


def assert_same_weights(run_dir: Path, other: Path) -> None:
    weights, others = (read_weights(newest_usable(d / "checkpoints")[0]) for d in (run_dir, other))
    assert weights.keys() >= others.keys()
    for name, tensor in others.items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-2, atol=2e-4, msg=name)


def test_bf16_follows_fp32(recipe, one_process, tmp_path):
    run_dir = run(recipe, tmp_path / "run", "processes", train__precision="bf16", train__deepspeed="zero2")
    assert losses(run_dir) == pytest.approx(losses(one_process), rel=5e-3)
    assert losses(run_dir) != losses(one_process)
    assert main(["export", str(run_dir)]) == 0


def test_activation_checkpointing_changes_nothing(recipe, one_process, tmp_path):
    settings = {"train__deepspeed": "zero3", "train__activation_checkpointing": "true"}
    run_dir = run(recipe, tmp_path / "run", "processes", **settings)
    assert losses(run_dir) == pytest.approx(losses(one_process), rel=2e-5)
