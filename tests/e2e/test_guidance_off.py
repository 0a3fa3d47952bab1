"""Weight 0 is no guidance at all, bit for bit; and the families train."""

import torch

from pipeline.__main__ import main
from pipeline.checkpoint import newest_usable
from pipeline.weights import read_weights
from tests.e2e.running import losses, overrides, read_metrics, train


def test_weight_zero_equals_no_guidance_bit_for_bit(recipe_file, tmp_path):
    recipe = recipe_file(train={"num_steps": 6})
    for name, settings in {
        "none": {"guidance__heads": "{}"},
        "zero": {"guidance__heads": "{next: 1, first: 2}", "guidance__weight": "0.0"},
        "guided": {"guidance__heads": "{next: 1, first: 2}"},
    }.items():
        finished = train(recipe, *overrides(run_dir=tmp_path / name, **settings))
        assert finished.code == 0, finished.output
    assert losses(tmp_path / "zero") == losses(tmp_path / "none")
    assert losses(tmp_path / "guided") != losses(tmp_path / "none")
    # The patterns are still measured, so an unguided run can be compared with a guided one.
    assert read_metrics(tmp_path / "zero", "valid")[-1]["guidance_mass"]["first"][0] > 0
    weights = {
        name: read_weights(newest_usable(tmp_path / name / "checkpoints")[0]) for name in ("none", "zero")
    }
    for key, tensor in weights["none"].items():
        assert torch.equal(tensor, weights["zero"][key]), key


def test_bert_and_modernbert_train_and_an_export_is_a_start(recipe_file, tmp_path):
    for family in ("bert", "modernbert"):
        recipe = recipe_file(model={"family": family}, train={"num_steps": 3})
        run_dir = tmp_path / family
        finished = train(recipe, *overrides(run_dir=run_dir))
        assert finished.code == 0, finished.output
    assert main(["export", str(tmp_path / "bert")]) == 0
    onward = recipe_file(model=None, train={"num_steps": 2})
    settings = overrides(run_dir=tmp_path / "onward", model__checkpoint=tmp_path / "bert" / "export")
    finished = train(onward, *settings)
    assert finished.code == 0, finished.output
    first_loss = losses(tmp_path / "onward")[0]
    assert abs(first_loss - losses(tmp_path / "bert")[-1]) < 0.5
