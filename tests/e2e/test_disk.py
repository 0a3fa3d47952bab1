"""Disks that are full or read-only in the middle of a run, on a small file system of their own."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.checkpoints.manifest import find_damage, list_checkpoints
from pipeline.runs.run_dir import RunDir
from tests.e2e.running import overrides, read_metrics, train

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few checkpoints' size; `remount` changes it."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def remount(path: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(path)], check=True)


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    return recipe_file(train={"num_steps": 12, "deepspeed": "zero2"}, checkpoint={"every_steps": 3})


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory) -> list[dict]:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(recipe, *overrides(run_dir=run_dir), launcher="processes").code == 0
    return read_metrics(run_dir)


@pytest.mark.parametrize("asynchronous", ["true", "false"])
def test_a_full_disk_costs_the_steps_since_the_last_checkpoint(recipe, undisturbed, small, asynchronous):
    run_dir = small / "run"
    settings = overrides(run_dir=run_dir, checkpoint__asynchronous=asynchronous)
    finished = train(recipe, *settings, launcher="processes")
    assert finished.code == 74, finished.output
    assert "No space left on device" in finished.output or "write" in finished.output
    assert "Traceback" not in finished.output
    kept = list_checkpoints(run_dir / "checkpoints")
    assert kept, "there was room for one"
    assert [find_damage(path) for path in kept] == [None] * len(kept)

    remount(small, "size=64m")
    again = train(recipe, *settings, launcher="processes")
    assert again.code == 0, again.output
    assert [line["loss"] for line in read_metrics(run_dir)] == [line["loss"] for line in undisturbed]
    assert [line["rows_digest"] for line in read_metrics(run_dir)] == [
        line["rows_digest"] for line in undisturbed
    ]


def test_a_read_only_directory_is_told_and_left_alone(recipe, small):
    remount(small, "size=64m")
    run_dir = small / "run"
    stopped = train(recipe, "--stop-at", "3", *overrides(run_dir=run_dir), launcher="processes")
    assert stopped.code == 75, stopped.output
    events = RunDir(run_dir).read_events()
    remount(small, "ro")
    refused = train(recipe, *overrides(run_dir=run_dir), launcher="processes")
    assert refused.code == 74, refused.output
    assert refused.output.count("error:") == 1
    assert f"cannot write the run directory {run_dir}" in refused.output
    remount(small, "rw")
    assert RunDir(run_dir).read_events() == events
    assert train(recipe, *overrides(run_dir=run_dir), launcher="processes").code == 0
