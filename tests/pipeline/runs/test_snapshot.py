"""A snapshot holds the code and the recipe, in a place named after them, and wins over what is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import main
from pipeline.config.load import parse_recipe, read_settings
from pipeline.errors import CheckpointError, RecipeError
from pipeline.runs.snapshot import SOURCE_ROOT, take_snapshot


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source tree in small."""
    root = tmp_path / "source"
    for name in ("pipeline/runs/a.py", "data_prep/b.py", "ds_configs/c.json", "slurm/d.sh", "pyproject.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for name in ("pipeline/__pycache__/a.pyc", "pipeline/.a.py.swp", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("not copied")
    return root


@pytest.fixture
def recipe(tiny_recipe, write_recipe, tmp_path, monkeypatch) -> Path:
    """A recipe whose paths are meant from the current directory."""
    monkeypatch.chdir(tmp_path)
    return write_recipe(
        tiny_recipe(
            {
                "run_dir": "run",
                "corpus": "corpora/c",
                "curriculum": [{"until": 2, "global_batch_size": 4}, {"until": 3, "corpus": "corpora/short"}],
                "train.deepspeed": "my/ds.json",
            }
        )
    )


def files_in(directory: Path) -> set[str]:
    return {str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()}


def test_code_and_resolved_recipe_are_copied(source, recipe, tmp_path):
    overrides = ["guidance.weight=2", "optimizer.learning_rate=5e-4", "guidance.sentence_ends=[., »]"]
    snapshot = take_snapshot(str(recipe), overrides, source)
    assert snapshot.parent == tmp_path / "run" / "snapshots"
    assert files_in(snapshot) == {
        *("pipeline/runs/a.py", "data_prep/b.py", "ds_configs/c.json", "slurm/d.sh", "pyproject.toml"),
        "recipe.yaml",
    }
    settings = read_settings(recipe, overrides)
    settings["curriculum"][1]["corpus"] = str(tmp_path / "corpora/short")
    expected, _ = parse_recipe(
        settings | {"run_dir": str(tmp_path / "run"), "corpus": str(tmp_path / "corpora/c")}
    )
    found, problems = parse_recipe(read_settings(snapshot / "recipe.yaml", []))
    assert problems == []
    assert found.train.deepspeed == str(tmp_path / "my/ds.json")
    assert found == expected.model_copy(update={"train": found.train})
    assert files_in(tmp_path / "run") == {f"snapshots/{snapshot.name}/{name}" for name in files_in(snapshot)}


def test_names_and_a_checkpoint_of_the_recipe(source, recipe, tmp_path):
    overrides = ["train.deepspeed=zero3", "model={checkpoint: roberta}"]
    settings = yaml.safe_load((take_snapshot(str(recipe), overrides, source) / "recipe.yaml").read_text())
    assert settings["train"]["deepspeed"] == "zero3"
    assert settings["model"] == {"checkpoint": str(tmp_path / "roberta")}


def test_the_same_content_has_the_same_place(source, recipe):
    first = take_snapshot(str(recipe), [], source)
    assert len(first.name) == 12
    (first / "pipeline" / "__pycache__").mkdir()  # as running it leaves behind
    (first / "pipeline" / "__pycache__" / "a.pyc").write_text("")
    assert take_snapshot(str(recipe), [], source) == first
    assert take_snapshot(str(recipe), ["seed=2"], source) != first
    (source / "pipeline/runs/a.py").write_text("edited")
    assert take_snapshot(str(recipe), [], source) != first
    shutil.move(source / "pipeline/runs/a.py", source / "pipeline/runs/b.py")
    assert len(list(first.parent.iterdir())) == 3
    take_snapshot(str(recipe), [], source)
    assert len(list(first.parent.iterdir())) == 4


def test_a_snapshot_that_was_edited_is_refused(source, recipe):
    snapshot = take_snapshot(str(recipe), [], source)
    (snapshot / "data_prep/b.py").write_text("edited")
    with pytest.raises(CheckpointError, match=r"was changed since it was taken \(data_prep/b.py\)"):
        take_snapshot(str(recipe), [], source)


def test_a_wrong_recipe_is_told_and_leaves_nothing(source, recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"unknown key; did you mean train\.num_steps"):
        take_snapshot(str(recipe), ["train.num_step=3"], source)
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_is_told(source, recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the snapshot"):
        take_snapshot(str(recipe), [f"run_dir={tmp_path}/file/run"], source)


def test_the_command_prints_the_directory_and_it_runs_its_own_code(recipe, tmp_path, capsys):
    assert main(["snapshot", str(recipe)]) == 0
    snapshot = Path(capsys.readouterr().out.removesuffix("\n"))
    assert snapshot.is_dir()
    assert {path.name for path in snapshot.iterdir()} >= {"pipeline", "data_prep", "ds_configs", "slurm"}
    # Run from the snapshot, Python must not take the packages of an installed copy.
    code = "import pipeline, data_prep; print(pipeline.__path__[0], data_prep.__path__[0])"
    printed = subprocess.check_output(
        [sys.executable, "-c", code], cwd=snapshot, env={"PYTHONPATH": str(SOURCE_ROOT)}, text=True
    )
    assert printed.split() == [f"{snapshot}/pipeline", f"{snapshot}/data_prep"]
    assert main(["snapshot", str(tmp_path / "missing.yaml")]) == 64
    assert capsys.readouterr().out == ""
