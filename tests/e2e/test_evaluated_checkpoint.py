"""Which checkpoint is evaluated while its run trains on, and who may use its export at the same time."""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from pipeline.__main__ import main
from pipeline.errors import CheckpointError, UsageError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.task import Settings
from pipeline.evaluation.tasks.held_out import HeldOut
from pipeline.export import export_run, write_export
from pipeline.runs.run_dir import RunDir
from pipeline.weights import choose_checkpoint, load_trained_run, read_weights
from tests.e2e.running import last_evaluation, overrides, train

CPU = torch.device("cpu")
BIAS = "lm_head.bias"


@pytest.fixture(scope="module")
def trained(recipe_file, tmp_path_factory) -> Path:
    recipe = recipe_file(train={"num_steps": 2}, checkpoint={"every_steps": 1, "keep_last": 3})
    path = tmp_path_factory.mktemp("evaluated") / "run"
    finished = train(recipe, *overrides(run_dir=path))
    assert finished.code == 0, finished.output
    return path


@pytest.fixture
def run(trained, tmp_path) -> RunDir:
    return RunDir(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def opened_at_1(run, tmp_path) -> Encoder:
    """Opened before step 2 was saved."""
    later = run.checkpoints / "step-00000002"
    later.rename(tmp_path / "later")
    encoder = Encoder.open(str(run.path), CPU)
    (tmp_path / "later").rename(later)
    return encoder


def test_the_checkpoint_chosen_first_is_evaluated_whatever_is_saved_later(run, opened_at_1):
    assert opened_at_1.step == 1
    weights = {step: read_weights(run.checkpoints / f"step-0000000{step}") for step in (1, 2)}
    bias = {
        step: next(value for name, value in found.items() if BIAS in name) for step, found in weights.items()
    }
    exported = AutoModelForMaskedLM.from_pretrained(str(opened_at_1.model_dir)).get_parameter(BIAS)
    assert torch.equal(exported, bias[1])
    assert not torch.equal(bias[1], bias[2])
    found = HeldOut(opened_at_1, Settings(limit=8)).measure("held-out")
    newest = HeldOut(Encoder.open(str(run.path), CPU), Settings(limit=8)).measure("held-out")
    assert found["loss"] != newest["loss"]


def test_a_checkpoint_that_retention_takes_away_is_told(run, opened_at_1):
    shutil.rmtree(run.checkpoints / "step-00000001")
    for use in (lambda: opened_at_1.model_dir, lambda: HeldOut(opened_at_1, Settings()).measure("held-out")):
        with pytest.raises(CheckpointError, match=r"step-00000001 was deleted or replaced after it had been"):
            use()


def test_a_checkpoint_that_a_rollback_replaces_is_told_and_is_another_one(run, tmp_path):
    encoder = Encoder.open(str(run.path), CPU)
    manifest = encoder.checkpoint.path / "MANIFEST.json"
    manifest.write_text(manifest.read_text() + "\n")
    other = Encoder.open(str(run.path), CPU)
    assert other.step == encoder.step
    assert other.identity() != encoder.identity()
    assert other.model_dir.name != f"model-00000002-{encoder.checkpoint.sha256[:12]}"
    with pytest.raises(CheckpointError, match="deleted or replaced"):
        _ = encoder.model_dir


def test_exports_of_other_checkpoints_stay_until_nobody_uses_them(run, opened_at_1):
    first = opened_at_1.model_dir
    killed = run.evaluation / ".model-00000001-abc.0123.partial"
    killed.mkdir()
    second = Encoder.open(str(run.path), CPU).model_dir
    assert first.is_dir()
    assert second != first
    for path in (first, killed, second):
        os.utime(path, (0, time.time() - 2 * 24 * 3600))
    _ = Encoder.open(str(run.path), CPU).tokenizer  # uses the second
    manifest = choose_checkpoint(run).path / "MANIFEST.json"
    manifest.write_text(manifest.read_text() + "\n")
    third = Encoder.open(str(run.path), CPU).model_dir
    assert {path.name for path in run.evaluation.iterdir()} == {second.name, third.name}


def test_the_first_of_two_exports_stays(run):
    trained = load_trained_run(str(run.path), CPU)
    target = run.path / "somewhere"
    assert write_export(trained, target, replace=False)
    (target / "mine").touch()
    assert not write_export(trained, target, replace=False)
    assert (target / "mine").is_file()
    with pytest.raises(UsageError, match="exists and is no empty directory"):
        export_run(str(run.path), str(target))
    assert write_export(trained, target, replace=True)
    assert not (target / "mine").exists()
    assert not list(run.path.glob(".somewhere*"))


def test_results_stand_under_the_checkpoint(run):
    assert main(["evaluate", str(run.path), "--limit", "8"]) == 0
    of = last_evaluation(run.path, "held_out")["of"]
    assert of["checkpoint_sha256"] == choose_checkpoint(run).sha256
