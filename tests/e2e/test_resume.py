"""Runs that are killed, stopped or restarted go on as if nothing had happened."""

import signal
import sys
import time
from pathlib import Path

import pytest

from pipeline.checkpoints.manifest import list_checkpoints, step_of
from pipeline.runs.run_dir import RunDir
from tests.e2e.running import (
    compare_killed_run,
    overrides,
    read_metrics,
    start,
    start_command,
    train,
    wait_for_lines,
)


def test_killed_and_resumed_equals_undisturbed(recipe_file, tmp_path):
    """SIGKILL to two processes under ZeRO-2, with dropout and sampled layers, then the same command."""
    recipe = recipe_file(
        model={"dropout": 0.1, "attention_dropout": 0.1},
        guidance={"heads": {"next": 1, "first": 1}, "dense": 4, "layers_per_step": 1},
        train={"num_steps": 40, "deepspeed": "zero2"},
        checkpoint={"every_steps": 5},
        logging={"every_steps": 2},
    )
    result = compare_killed_run(recipe, tmp_path / "run", kill_at=8, compare_until=30)
    assert result["identical"]
    assert result["lines_compared"] >= 15
    assert result["resumed_at_step"] >= 5
    assert read_metrics(tmp_path / "run")[-1]["step"] == 40


def test_stop_signal_saves_and_the_next_start_goes_on(recipe_file, tmp_path):
    """SIGTERM to the launcher: all processes agree, save, and end with 75."""
    recipe = recipe_file(train={"num_steps": 2000}, checkpoint={"every_steps": 1000})
    run = RunDir(tmp_path / "run")
    running = start(recipe, *overrides(run_dir=run.path), launcher="processes")
    wait_for_lines(run.metrics_file, 3, running)
    running.send_signal(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.code == 75, stopped.output

    (newest,) = list_checkpoints(run.checkpoints)
    assert (run.checkpoints / "latest").read_text().strip() == newest.name
    assert run.read_events()[-1] | {"time": ""} == {
        "time": "",
        "event": "stop",
        "step": step_of(newest),
        "reason": "SIGTERM",
    }
    again = train(
        recipe, "--stop-at", str(step_of(newest) + 2), *overrides(run_dir=run.path), launcher="processes"
    )
    assert again.code == 75, again.output
    resumed = [event["step"] for event in run.read_events() if event["event"] == "resume"]
    assert resumed == [step_of(newest)]


def test_a_run_stops_before_its_job_does(recipe_file, tmp_path):
    """SLURM tells when the job ends; the run needs no signal to save in time."""
    recipe = recipe_file(train={"num_steps": 4000}, checkpoint={"every_steps": 1000})
    run_dir = tmp_path / "run"
    running = start_command(
        [sys.executable, "-m", "pipeline", "train", str(recipe), *overrides(run_dir=run_dir)],
        variables={"SLURM_JOB_END_TIME": str(int(time.time()) + 20)},
    )
    finished = running.wait(60)
    assert finished.code == 75, finished.output
    assert RunDir(run_dir).read_events()[-1]["reason"] == "deadline"


@pytest.fixture(scope="module")
def finished_run(recipe_file, tmp_path_factory) -> tuple[Path, Path]:
    recipe = recipe_file(train={"num_steps": 4}, checkpoint={"every_steps": 2})
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    finished = train(recipe, *overrides(run_dir=run_dir))
    assert finished.code == 0, finished.output
    return recipe, run_dir


def test_a_finished_run_started_again_does_nothing(finished_run):
    recipe, run_dir = finished_run
    before = (run_dir / "metrics.jsonl").read_bytes()
    again = train(recipe, *overrides(run_dir=run_dir))
    assert again.code == 0
    assert "is done: 4 of 4 steps" in again.output
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_fresh_refuses_a_directory_that_holds_a_run(finished_run):
    recipe, run_dir = finished_run
    again = train(recipe, "--fresh", *overrides(run_dir=run_dir))
    assert again.code == 64
    assert f"--fresh: {run_dir} holds a run" in again.output


def test_another_recipe_in_the_same_directory_is_refused_by_key_and_value(finished_run):
    recipe, run_dir = finished_run
    again = train(recipe, *overrides(run_dir=run_dir, optimizer__learning_rate=0.25, seed=9))
    assert again.code == 78
    assert "optimizer.learning_rate: 0.25, the run was started with" in again.output
    assert "seed: 9" in again.output
