"""A process that dies, freezes or hangs ends the run within a bounded time, by name, and costs no result."""

import signal
import sys
import time
from pathlib import Path

import pytest

from pipeline.checkpoints.manifest import list_checkpoints
from pipeline.runs.run_dir import RunDir
from tests.e2e.running import Finished, overrides, run_command, start, train, wait_for_lines


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    return recipe_file(
        train={"num_steps": 4000},
        evaluation={"every_steps": 10_000},
        checkpoint={"every_steps": 5},
        recovery={"silence_seconds": 5.0, "hang_seconds": 6.0},
    )


def signal_a_rank(recipe: Path, run_dir: Path, number: int, rank: int) -> Finished:
    """Start a run on two processes, send one of them a signal after some steps, and wait for the end."""
    running = start(recipe, *overrides(run_dir=run_dir), launcher="processes")
    wait_for_lines(run_dir / "metrics.jsonl", 4, running)
    running.send_signal(number, rank=rank)
    return running.wait(90)


def lost_process(run_dir: Path) -> dict:
    return next(event for event in RunDir(run_dir).read_events() if event["event"] == "lost process")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_freezes_is_named(recipe, tmp_path, number):
    run_dir = tmp_path / "run"
    finished = signal_a_rank(recipe, run_dir, number, rank=1)
    assert finished.code == 69, finished.output
    assert "no sign of life for 5 s from rank 1" in finished.output
    assert lost_process(run_dir)["ranks"] == [1]

    step = int(list_checkpoints(run_dir / "checkpoints")[0].name.removeprefix("step-"))
    again = train(recipe, "--stop-at", str(step + 1), *overrides(run_dir=run_dir), launcher="processes")
    assert again.code == 75, again.output
    assert RunDir(run_dir).read_events()[-1]["event"] == "stop"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_main_process_dies_or_freezes(recipe, tmp_path, number):
    run_dir = tmp_path / "run"
    finished = signal_a_rank(recipe, run_dir, number, rank=0)
    assert finished.code == 69, finished.output
    assert "rank 0" in finished.output
    assert lost_process(run_dir)["ranks"] == [0]


def test_a_rank_that_hangs_is_named_with_its_place_and_stack(recipe, tmp_path):
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "tests.e2e.broken_rank", "hang", "1", "7", str(recipe)]
    finished = run_command([*command, *overrides(run_dir=run_dir)])
    assert finished.code == 69, finished.output
    assert "all others wait for rank 1" in finished.output
    assert "last seen at: step 7: reading rows" in finished.output
    assert "broken_rank.py" in finished.output, "the stack says where it hangs"
    assert lost_process(run_dir)["ranks"] == [1]


def test_an_error_of_one_rank_alone_is_everybodys(recipe, tmp_path):
    command = [sys.executable, "-m", "tests.e2e.broken_rank", "bad-data", "1", "7", str(recipe)]
    finished = run_command([*command, *overrides(run_dir=tmp_path / "run")])
    assert finished.code == 65, finished.output
    assert finished.output.count("error:") == 1
    assert "error: a shard is broken" in finished.output


def test_a_launcher_that_is_killed_takes_its_ranks_with_it(recipe, tmp_path):
    """They save and stop: nobody could signal them any more."""
    run_dir = tmp_path / "run"
    settings = overrides(run_dir=run_dir)
    running = start(recipe, *settings, launcher="processes", genuine=True)
    wait_for_lines(run_dir / "metrics.jsonl", 4, running)
    running.send_signal(signal.SIGKILL)
    running.wait(30)
    deadline = time.monotonic() + 60
    while (last := RunDir(run_dir).read_events()[-1])["event"] != "stop":
        assert time.monotonic() < deadline, last
        time.sleep(0.1)
    assert last["reason"] == "launcher gone"
    again = train(recipe, "--stop-at", str(last["step"] + 1), *settings, launcher="processes")
    assert again.code == 75, again.output
