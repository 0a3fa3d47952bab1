"""A folder and a line make an objective: it trains, resumes and is reported like those that come along."""

import html
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import main
from pipeline.objectives import OBJECTIVES
from pipeline.runs.run_dir import RunDir
from tests.conftest import TINY_RECIPE
from tests.e2e.running import overrides, read_metrics, run_command

NUM_STEPS, STOP_AT = 12, 5  # in the middle of a window of two steps
ROUNDING = 1e-4


def go_on(recipe: Path, run_dir: Path, processes: int, *arguments: str, code: int = 0) -> None:
    command = [sys.executable, "-m", "tests.e2e.toy_objective", str(processes), "train", str(recipe)]
    finished = run_command([*command, *arguments, *overrides(run_dir=run_dir)])
    assert finished.code == code, finished.output


@pytest.fixture(scope="module")
def recipe(recipe_file: Callable[..., Path]) -> Path:
    return recipe_file(
        objective={"kind": "toy", "mask_rate": 0.2},
        train={"num_steps": NUM_STEPS, "micro_batch_size": 2},
        optimizer={"learning_rate": 1e-2},
    )


@pytest.fixture(scope="module")
def resumed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that two processes began and one ended."""
    run_dir = tmp_path_factory.mktemp("toy") / "run"
    go_on(recipe, run_dir, 2, "--stop-at", str(STOP_AT), code=75)
    go_on(recipe, run_dir, 1)
    return run_dir


def test_two_processes_and_then_one_train_as_one(recipe: Path, resumed: Path, tmp_path: Path) -> None:
    go_on(recipe, tmp_path / "through", 1)

    lines, expected = read_metrics(resumed), read_metrics(tmp_path / "through")

    assert [line["step"] for line in lines] == list(range(2, NUM_STEPS + 1, 2))
    for line, other in zip(lines, expected, strict=True):
        assert line["rows_digest"] == other["rows_digest"]
        assert line["tokens"] == other["tokens"]
        for name in ("loss", "documents_error"):
            assert line[name] == pytest.approx(other[name], rel=ROUNDING)
        for name in ("gradient_norm", "guidance_loss"):
            assert line[name] == pytest.approx(other[name], rel=1e-3)
    evaluated = [read_metrics(run, "valid") for run in (resumed, tmp_path / "through")]
    for line, other in zip(*evaluated, strict=True):
        assert line["documents_error"] == pytest.approx(other["documents_error"], rel=ROUNDING)


def test_its_metric_is_in_the_lines_and_what_is_not_its_own_is_not(resumed: Path) -> None:
    train, valid = read_metrics(resumed), read_metrics(resumed, "valid")

    assert train[-1]["documents_error"] < train[0]["documents_error"]
    assert train[-1]["loss"] < train[0]["loss"]
    assert all(line["documents_error"] > 0 for line in valid)
    assert not {"perplexity", "accuracy"} & {*train[-1], *valid[-1]}


def test_it_is_reported(
    resumed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(OBJECTIVES, "toy", "tests.e2e.toy_objective")
    assert RunDir(resumed).read_recipe().objective.kind == "toy"

    assert main(["report", str(resumed)]) == 0

    page = html.unescape((resumed / "report" / "report.html").read_text(encoding="utf-8"))
    assert "held-out documents error" in page
    assert (resumed / "report" / "loss.png").is_file()


def test_it_is_planned(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(OBJECTIVES, "toy", "tests.e2e.toy_objective")

    def planned(*changes: str) -> dict[str, Any]:
        assert main(["plan", str(recipe), "--json", *overrides(run_dir=tmp_path), *changes]) == 0
        return json.loads(capsys.readouterr().out)

    toy, mlm = planned(), planned("--set", "objective.kind=mlm")
    assert toy["parameters"] == mlm["parameters"] + TINY_RECIPE["model"]["hidden_size"] + 1
    parts = [plan["memory_bytes_per_process"]["activations"] for plan in (toy, mlm)]
    assert parts[0] > 1.5 * parts[1]  # it runs the encoder twice
