"""A forked process is what a genuine one would be: in what it sees, in how it ends, to the last bit."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.resume import compare_logs
from pipeline.checkpoints.manifest import newest_usable
from pipeline.runs.run_dir import RunDir
from pipeline.weights import read_weights
from tests.e2e.running import overrides, start, train, wait_for_lines
from tests.processes import run_command, start_command


@pytest.mark.parametrize("launcher", ["none", "processes"])
def test_training_has_the_bits_of_a_genuine_command(recipe_file, tmp_path, launcher):
    recipe = recipe_file(
        model={"dropout": 0.1, "attention_dropout": 0.1},
        guidance={"heads": {"next": 1, "first": 1}, "dense": 4, "layers_per_step": 1},
        train={"num_steps": 6, "deepspeed": "zero2"},
        logging={"every_steps": 1},
    )
    runs = [RunDir(tmp_path / "forked"), RunDir(tmp_path / "genuine")]
    for run in runs:
        settings = overrides(run_dir=run.path)
        finished = train(recipe, *settings, launcher=launcher, genuine=run is runs[1])
        assert finished.code == 0, finished.output

    compared, differences = compare_logs(*runs)
    assert differences == []
    assert compared >= 6
    forked, genuine = (read_weights(newest_usable(run.checkpoints)[0]) for run in runs)
    for name, tensor in genuine.items():
        assert torch.equal(tensor, forked[name]), name


@pytest.mark.parametrize("start_as", [[], ["--rank"]])
def test_process_sees_what_a_genuine_one_sees(tmp_path, start_as):
    command = [sys.executable, "-m", "tests.self_portrait", *start_as, "--some", "argument"]
    variables = {"OMP_NUM_THREADS": "2", "SLURM_JOB_ID": "7"}
    forked, genuine = (
        run_command(command, genuine=is_genuine, cwd=tmp_path, variables=variables)
        for is_genuine in (False, True)
    )
    assert (forked.code, genuine.code) == (3, 3), forked.output + genuine.output
    seen, expected = json.loads(forked.output), json.loads(genuine.output)
    for seed, other in zip(seen.pop("seeds"), expected.pop("seeds"), strict=True):
        assert seed != other
    assert seen == expected


def test_no_two_have_the_same_seeds():
    """A run that forgets to seed a generator is not reproducible, forked or not."""
    command = [sys.executable, "-m", "tests.self_portrait"]
    one, other = (json.loads(run_command(command).output)["seeds"] for _ in range(2))
    assert not {*one} & {*other}


def test_what_libraries_read_when_they_are_imported_cannot_be_set():
    command = [sys.executable, "-m", "tests.self_portrait"]
    with pytest.raises(AssertionError, match="DS_ACCELERATOR: read when libraries are imported"):
        start_command(command, variables={"DS_ACCELERATOR": "cuda"})


@pytest.fixture
def endless(recipe_file, tmp_path) -> tuple[Path, Path]:
    """A recipe that takes longer than any test waits, and its run directory."""
    return recipe_file(train={"num_steps": 100_000}, logging={"every_steps": 1}), tmp_path / "run"


def test_killed_process_was_killed_by_that_signal(endless):
    recipe, run_dir = endless
    running = start(recipe, *overrides(run_dir=run_dir))
    wait_for_lines(run_dir / "metrics.jsonl", 1, running)
    assert os.getsid(running.pid) == running.pid
    running.send_signal(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL


def test_kill_leaves_no_process(endless):
    recipe, run_dir = endless
    running = start(recipe, *overrides(run_dir=run_dir), launcher="processes", processes=2)
    ranks = [running.pid_of(0), running.pid_of(1)]
    running.kill()
    assert running.wait().code == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while any(exists(pid) for pid in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
