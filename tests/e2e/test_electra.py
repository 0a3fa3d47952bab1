"""Replaced-token detection as a user meets it: train, stop, resume elsewhere, evaluate, export, report."""

from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification

from pipeline.__main__ import main
from tests.e2e.running import last_evaluation, losses, overrides, read_metrics, train
from tests.e2e.test_evaluation_tasks import write_blimp, write_glue

EVERY_FIELD = ("loss", "generator_loss", "replaced_rate", "guidance_loss", "generator_guidance_loss")


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    """Both networks guided, in one layer per step after half the run."""
    return recipe_file(
        objective={"kind": "electra", "generator_layers": 1},
        guidance={
            "heads": {"next": 1, "previous": 1},
            "networks": ["generator", "discriminator"],
            "dense": 0.5,
            "layers_per_step": 1,
        },
        train={"micro_batch_size": 2},
    )


def run(
    recipe: Path, run_dir: Path, *arguments: str, launcher: str = "none", code: int = 0, **settings
) -> Path:
    settings = {"run_dir": run_dir, "logging__every_steps": 1, **settings}
    finished = train(recipe, *overrides(**settings), *arguments, launcher=launcher)
    assert finished.code == code, finished.output
    return run_dir


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory) -> Path:
    return run(recipe, tmp_path_factory.mktemp("electra") / "run")


@pytest.mark.parametrize("stage", [pytest.param("zero0", marks=pytest.mark.matrix), "zero3"])
def test_two_processes_that_stop_go_on_as_one_that_does_not(recipe, undisturbed, tmp_path, stage):
    two = tmp_path / "run"
    run(recipe, two, "--stop-at", "7", launcher="processes", code=75, train__deepspeed=stage)
    run(recipe, two, launcher="processes", train__deepspeed=stage)

    expected, found = read_metrics(undisturbed), read_metrics(two)
    assert [line["rows_digest"] for line in found] == [line["rows_digest"] for line in expected]
    for field in EVERY_FIELD:
        assert [line[field] for line in found] == pytest.approx([line[field] for line in expected], rel=1e-3)
    assert losses(two) == pytest.approx(losses(undisturbed), rel=2e-5)


def test_another_number_of_processes_goes_on(recipe, undisturbed, tmp_path):
    two = tmp_path / "run"
    run(recipe, two, "--stop-at", "7", launcher="processes", code=75)
    run(recipe, two)
    assert losses(two) == pytest.approx(losses(undisturbed), rel=2e-5)


def test_either_network_is_exported_and_the_discriminator_evaluated(undisturbed, tmp_path, capsys):
    assert main(["export", str(undisturbed)]) == 0
    assert main(["export", str(undisturbed), "--network", "generator"]) == 0
    discriminator = AutoModelForTokenClassification.from_pretrained(undisturbed / "export")
    assert discriminator.config.id2label == {0: "replaced"}
    generator = AutoModelForMaskedLM.from_pretrained(undisturbed / "export-generator")
    assert generator.config.num_hidden_layers == 1
    capsys.readouterr()
    assert main(["export", str(undisturbed), "--network", "critic"]) == 64
    assert "discriminator, generator" in capsys.readouterr().err

    assert main(["evaluate", str(undisturbed)]) == 0
    assert "share of tokens that are replaced" in capsys.readouterr().out
    assert last_evaluation(undisturbed, "held_out")["numbers"].keys() >= {"replaced_rate", "constant_loss"}
    write_blimp(tmp_path)
    assert main(["evaluate", str(undisturbed), "--task", "blimp", "--data", str(tmp_path)]) == 0
    assert main(["evaluate", str(undisturbed / "export"), "--task", "blimp", "--data", str(tmp_path)]) == 0
    write_glue(tmp_path)
    task = ["--task", "glue", "--data", str(tmp_path), "--epochs", "1", "--seeds", "1"]
    assert main(["evaluate", str(undisturbed), *task]) == 0
    assert main(["report", str(undisturbed)]) == 0
