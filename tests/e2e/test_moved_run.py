"""evaluate, export and report of a real run from another directory, and of one that was moved or copied."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import main
from tests.conftest import TINY_RECIPE
from tests.e2e.running import last_evaluation, run_command

COMMANDS = [
    ["evaluate", "--limit", "4"],
    ["evaluate", "--task", "probe", "--limit", "2"],
    ["export"],
    ["report"],
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    """A run that was trained in the directory beside its corpus, whose paths are relative."""
    path = tmp_path_factory.mktemp("a") / "project"
    shutil.copytree(tiny_corpus, path / "corpora" / "mine")
    recipe = {**TINY_RECIPE, "run_dir": "runs/x", "corpus": "corpora/mine"}
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    finished = run_command([sys.executable, "-m", "pipeline", "train", "recipe.yaml"], cwd=path)
    assert finished.code == 0, finished.output
    return path


def run_all(run: Path, *options: str) -> float:
    """Every command must do; returns the held-out loss."""
    for name, *arguments in COMMANDS:
        assert main([name, str(run), *arguments, *options]) == 0, name
    return last_evaluation(run, "held_out")["numbers"]["loss"]


def test_a_run_is_read_from_anywhere_and_wherever_it_was_moved(project, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    shutil.copytree(project, moved)
    monkeypatch.chdir(project)
    expected = run_all(Path("runs/x"))
    monkeypatch.chdir(tmp_path)

    assert run_all(project / "runs" / "x") == expected
    (moved / "corpora" / "mine").rename(moved / "corpora" / "kept")  # so that it is not the copy that is read
    assert run_all(moved / "runs" / "x") == expected


def test_a_corpus_that_is_gone_is_told_and_can_be_named(project, tmp_path, monkeypatch, capsys, short_corpus):
    moved = tmp_path / "moved"
    shutil.copytree(project, moved)
    shutil.rmtree(moved / "runs" / "x" / "evaluation", ignore_errors=True)
    (moved / "corpora" / "mine").rename(tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    run = moved / "runs" / "x"
    environment = run / "environment.json"
    environment.write_text(environment.read_text().replace(str(project), str(moved)))

    for name, *arguments in COMMANDS:
        assert main([name, str(run), *arguments]) == 65
        error = capsys.readouterr().err
        assert f"{moved / 'corpora' / 'mine'} does not exist" in error
        assert "write --corpus DIRECTORY" in error
        assert main([name, str(run), *arguments, "--corpus", str(short_corpus)]) == 64
        assert "holds another corpus" in capsys.readouterr().err
    run_all(run, "--corpus", str(tmp_path / "kept"))


def test_a_model_directory_has_no_corpus(project, tmp_path, capsys):
    model = tmp_path / "model"
    assert main(["export", str(project / "runs" / "x"), "--out", str(model)]) == 0

    assert main(["evaluate", str(model), "--task", "probe", "--corpus", str(tmp_path)]) == 64
    assert "is no run and has no corpus" in capsys.readouterr().err
