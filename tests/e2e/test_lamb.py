"""LAMB under every ZeRO setting: the paper's steps, stopped and resumed, cut anew, and with losses of NaN."""

import math
import sys
from pathlib import Path

import pytest

from pipeline.runs.run_dir import RunDir
from tests.e2e.poison import Poison
from tests.e2e.running import losses, overrides, read_metrics, run_command, train

NUM_STEPS, STOP_AT = 8, 4


@pytest.mark.parametrize(
    ("processes", "template", "precision"),
    [
        (1, "zero0", "fp32"),
        (1, "zero1", "fp32"),
        (2, "zero1", "fp32"),
        (2, "zero1", "bf16"),
        (2, "zero2_offload", "bf16"),
        (2, "zero3", "bf16"),
        (2, "zero3_offload", "fp32"),
        (4, "zero2", "fp32"),  # most parameters are on one process alone
        (4, "zero3", "fp32"),  # with padding on the last process
    ],
)
def test_steps_are_those_of_the_paper(processes: int, template: str, precision: str) -> None:
    command = [sys.executable, "-m", "tests.e2e.lamb_steps", str(processes), template, precision]
    finished = run_command(command)
    assert finished.code == 0, finished.output


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    return recipe_file(
        optimizer={"kind": "lamb", "learning_rate": 0.01},
        train={"num_steps": NUM_STEPS},
        checkpoint={"every_steps": 100},
        logging={"every_steps": 1},
    )


def go_on(recipe: Path, run_dir: Path, size: int, stage: int, *arguments: str) -> None:
    settings = overrides(run_dir=run_dir, train__deepspeed=f"zero{stage}")
    launcher = "none" if size == 1 else "processes"
    finished = train(recipe, *arguments, *settings, launcher=launcher, processes=size)
    assert finished.code == (75 if arguments else 0), finished.output


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    go_on(recipe, run_dir, 2, 2)
    return run_dir


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, 2), (2, 2)), ((2, 2), (1, 2)), ((1, 1), (4, 1)), ((2, 1), (2, 3)), ((1, 3), (2, 2))],
)
def test_a_stopped_run_goes_on(recipe, undisturbed, tmp_path, before, after) -> None:
    """By number of processes and ZeRO stage: to the bit where they stay the same, otherwise to rounding."""
    run_dir = tmp_path / "run"
    go_on(recipe, run_dir, *before, "--stop-at", str(STOP_AT))
    go_on(recipe, run_dir, *after)
    events = [event["event"] for event in RunDir(run_dir).read_events()]
    assert ("converted" in events) == (before != after)
    tolerance = 0.0 if before == after else 2e-5
    assert losses(run_dir) == pytest.approx(losses(undisturbed), rel=tolerance)
    found, expected = (
        [line["gradient_norm"] for line in read_metrics(path)] for path in (run_dir, undisturbed)
    )
    assert found == pytest.approx(expected, rel=max(tolerance, 1e-3 * (before != after)))


@pytest.mark.parametrize("template", ["zero0", "zero1", "zero3"])
def test_nan_leaves_weights_and_moments_as_they_are(recipe, tmp_path, template) -> None:
    """The process that is poisoned compares them before and after."""
    poison = Poison(steps=[3], rows=None, factor=math.nan)
    command = [sys.executable, "-m", "tests.e2e.poison", poison.to_json(), "2", str(recipe)]
    finished = run_command([*command, *overrides(run_dir=tmp_path / "run", train__deepspeed=template)])
    assert finished.code == 0, finished.output
    skipped = [event["step"] for event in RunDir(tmp_path / "run").read_events() if "skip" in event["event"]]
    assert skipped == [3]
