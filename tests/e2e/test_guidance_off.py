"""Weight 0 is no guidance at all, bit for bit; and the families train."""

from pathlib import Path

import pytest
import torch

from pipeline.__main__ import main
from pipeline.checkpoints.manifest import newest_usable
from pipeline.weights import read_weights
from tests.e2e.running import losses, overrides, read_metrics, train


@pytest.fixture(scope="module")
def runs(recipe_file, tmp_path_factory) -> Path:
    """Directories of the same run without heads, with weight 0, and guided until step 4 of 6."""
    recipe = recipe_file(train={"num_steps": 6}, logging={"every_steps": 1})
    directory = tmp_path_factory.mktemp("runs")
    heads = "{next: 1, delimiters: 2}"
    for name, settings in {
        "none": {"guidance__heads": "{}"},
        "zero": {"guidance__heads": heads, "guidance__weight": "0.0"},
        "guided": {"guidance__heads": heads, "guidance__plateau": 2, "guidance__end": 4},
    }.items():
        finished = train(recipe, *overrides(run_dir=directory / name, **settings))
        assert finished.code == 0, finished.output
    return directory


def test_weight_zero_equals_no_guidance_bit_for_bit(runs):
    assert losses(runs / "zero") == losses(runs / "none")
    assert losses(runs / "guided") != losses(runs / "none")
    weights = {name: read_weights(newest_usable(runs / name / "checkpoints")[0]) for name in ("none", "zero")}
    for key, tensor in weights["none"].items():
        assert torch.equal(tensor, weights["zero"][key]), key
    for line in read_metrics(runs / "zero"):
        assert_not_looked_at(line)


def test_no_layer_is_looked_at_once_guidance_has_ended(runs):
    lines = read_metrics(runs / "guided")
    assert [line["guidance_weight"] for line in lines] == [0.1] * 3 + [0.05, 0.0, 0.0]
    assert [line["guided_layers"] for line in lines] == [2, 2, 1, 1, 0, 0]  # sampled when the weight falls
    assert all(line["guidance_loss"] > 0 for line in lines[:4])
    for line in lines[4:]:
        assert_not_looked_at(line)


def assert_not_looked_at(line: dict) -> None:
    assert (line["guided_layers"], line["guidance_loss"], line["guidance_share"]) == (0, 0.0, 0.0)
    assert line["guidance_error"] == {"next": None, "delimiters": None}
    assert line["guidance_mass"] == {"next": [None, None], "delimiters": [None, None]}


def test_patterns_are_measured_all_the_same(runs):
    """So that an unguided run can be compared with a guided one."""
    for name in ("zero", "guided"):
        mass = read_metrics(runs / name, "valid")[-1]["guidance_mass"]
        assert mass["next"][0] > 0
        assert mass["delimiters"][1] > 0
    assert read_metrics(runs / "none", "valid")[-1]["guidance_mass"] == {}


def test_run_without_heads_has_a_report_without_patterns(runs):
    assert main(["report", str(runs / "none")]) == 0
    drawn = {path.stem for path in (runs / "none" / "report").glob("*.png")}
    assert drawn == {"loss", "metrics", "attention_maps", "rates", "throughput"}


def test_bert_and_modernbert_train_and_an_export_is_a_start(recipe_file, tmp_path):
    for family in ("bert", "modernbert"):
        recipe = recipe_file(model={"family": family}, train={"num_steps": 3})
        run_dir = tmp_path / family
        finished = train(recipe, *overrides(run_dir=run_dir), launcher="processes")
        assert finished.code == 0, finished.output
        # Once, by the main process; the tiny recipe guides.
        assert finished.output.count("guidance is likely to harm") == (family == "modernbert")
    assert main(["export", str(tmp_path / "bert")]) == 0
    onward = recipe_file(model=None, train={"num_steps": 2})
    settings = overrides(run_dir=tmp_path / "onward", model__checkpoint=tmp_path / "bert" / "export")
    finished = train(onward, *settings)
    assert finished.code == 0, finished.output
    first_loss = losses(tmp_path / "onward")[0]
    assert abs(first_loss - losses(tmp_path / "bert")[-1]) < 0.5
