"""Damaged checkpoints are named and passed over; with none left nothing is trained and nothing changes."""

import fcntl
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

import pytest

from pipeline.checkpoints.manifest import list_checkpoints
from pipeline.runs.run_dir import RunDir
from tests.e2e.running import overrides, read_metrics, run_command, train


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    return recipe_file(train={"num_steps": 9}, checkpoint={"every_steps": 2, "keep_last": 3})


@pytest.fixture(scope="module")
def stopped_run(recipe, tmp_path_factory) -> Path:
    """Checkpoints of steps 2, 4 and 6."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    finished = train(recipe, "--stop-at", "6", *overrides(run_dir=run_dir))
    assert finished.code == 75, finished.output
    assert [path.name for path in list_checkpoints(run_dir / "checkpoints")] == [
        "step-00000006",
        "step-00000004",
        "step-00000002",
    ]
    return run_dir


@pytest.fixture
def run_dir(stopped_run, tmp_path) -> Path:
    return Path(shutil.copytree(stopped_run, tmp_path / "run"))


def flip_one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


DAMAGES = {
    "one flipped bit": (flip_one_bit, "has other content than was written"),
    "a missing file": (Path.unlink, "is missing"),
    "a truncated file": (truncate, "bytes instead of"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_checkpoint_is_named_and_the_one_before_used(recipe, run_dir, damage):
    hurt, message = DAMAGES[damage]
    hurt(weights_file(run_dir, 6))
    before = {line["step"]: line["loss"] for line in read_metrics(run_dir)}
    finished = train(recipe, *overrides(run_dir=run_dir))
    assert finished.code == 0, finished.output
    assert "damaged checkpoint skipped, kept as" in finished.output
    assert message in finished.output
    assert weights_file(run_dir, 6).name in finished.output
    events = RunDir(run_dir).read_events()
    assert [event["step"] for event in events if event["event"] == "resume"] == [4]
    assert [event["kept_as"] for event in events if event["event"] == "corrupt checkpoint"] == [
        "damaged-1-step-00000006"
    ]
    after = {line["step"]: line["loss"] for line in read_metrics(run_dir)}
    assert max(after) == 9
    assert {step: after[step] for step in before} == before


def test_with_no_good_checkpoint_left_nothing_is_touched(recipe, run_dir):
    for step in (2, 4, 6):
        flip_one_bit(weights_file(run_dir, step))
    before = snapshot(run_dir)
    finished = train(recipe, *overrides(run_dir=run_dir))
    assert finished.code == 74
    for step in (2, 4, 6):
        assert f"step-0000000{step}: mp_rank_00_model_states.pt has other content" in finished.output
    assert "Traceback" not in finished.output
    assert snapshot(run_dir) == before


def test_vanished_checkpoints_do_not_mean_a_new_run(recipe, run_dir):
    shutil.rmtree(run_dir / "checkpoints")
    before = snapshot(run_dir)
    finished = train(recipe, *overrides(run_dir=run_dir))
    assert finished.code == 74
    assert "the run had published step 6" in finished.output
    assert snapshot(run_dir) == before


def test_a_full_disk_on_one_process_ends_all_at_once(recipe_file, tmp_path):
    """Every process but one can write its checkpoint files; none waits for the one that cannot."""
    recipe = recipe_file(train={"num_steps": 3, "deepspeed": "zero2"})
    settings = overrides(run_dir=tmp_path / "run")
    started = time.monotonic()
    command = [sys.executable, "-m", "tests.e2e.broken_rank", "full-disk", "1", "0", str(recipe)]
    finished = run_command([*command, *settings])
    assert finished.code == 74, finished.output
    assert finished.output.count("rank 1 cannot write the checkpoint") == 1
    assert "No space left on device" in finished.output
    assert "Traceback" not in finished.output
    assert time.monotonic() - started < 120, "the processes waited for each other"
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []


def test_a_run_that_is_being_trained_is_left_alone(recipe, run_dir):
    owner = {"host": platform.node(), "pid": os.getpid(), "job": None, "since": 0.0}
    with (run_dir / ".lock").open("w") as lock:
        json.dump(owner, lock)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = snapshot(run_dir)
        finished = train(recipe, *overrides(run_dir=run_dir))
    assert finished.code == 74
    assert f"is being trained by process {os.getpid()} on {platform.node()}" in finished.output
    assert snapshot(run_dir) == before


def weights_file(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}" / "mp_rank_00_model_states.pt"


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file but the lock, which each start signs."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
