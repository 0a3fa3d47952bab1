"""Profiles of a few steps: which, what is written, and what the summary says."""

import gzip
import json
import logging
from pathlib import Path

import pytest
import torch

from pipeline.accounting.clock import span
from pipeline.processes.cluster import Cluster
from pipeline.runs.run_dir import RunDir
from pipeline.training.profiling import WAIT_STEPS, Entry, StepProfiler, summarize


def kernel(name: str, seconds: float) -> Entry:
    return Entry(name, 4, seconds, seconds, is_range=False)


def part(name: str, seconds: float) -> Entry:
    return Entry(name, 2, 0.0, seconds, is_range=True)


def train_some(profiler: StepProfiler, first_step: int, num_steps: int) -> None:
    """Steps whose forward pass is a matrix product."""
    for step in range(first_step, first_step + num_steps):
        with span("forward"):
            torch.ones(64, 64) @ torch.ones(64, 64)
        profiler.step_done(step)


def names_in(trace: Path) -> list[str]:
    with gzip.open(trace) as file:
        return [event.get("name", "") for event in json.load(file)["traceEvents"]]


# Summary


def test_shares_are_of_the_whole_time() -> None:
    entries = [part("forward", 2.0), part("backward", 5.0), part("guidance", 1.0), part("communication", 0.5)]

    shares = summarize(entries, num_steps=2, seconds=10.0).shares

    assert shares == {
        "loader": 0.0, "forward": 0.2, "backward": 0.5, "optimizer": 0.0, "guidance": 0.1,
        "communication": 0.05,
    }  # fmt: skip


def test_kernels_of_nccl_are_the_communication_of_a_gpu() -> None:
    entries = [
        kernel("ncclDevKernel_AllReduce_Sum_bf16", 2.0),
        kernel("ncclDevKernel_ReduceScatter", 1.0),
        part("communication", 9.0),  # what the host spent on queueing them and on gloo
    ]

    assert summarize(entries, num_steps=1, seconds=10.0).shares["communication"] == pytest.approx(0.3)


def test_table_has_the_longest_first_and_no_ranges() -> None:
    entries = [kernel("short", 0.1), kernel("long", 0.6), part("forward", 0.9), kernel("none", 0.0)]
    summary = summarize(entries, num_steps=2, seconds=1.0)

    assert [entry.name for entry in summary.entries] == ["long", "short"]
    lines = summary.render("steps 4-5", 1).splitlines()
    assert lines[0] == "steps 4-5: 2 step(s), 500.0 ms each"
    assert lines[-1].split() == ["300.00", "ms", "60.0", "%", "2.0", "calls", "long"]


# Steps


def test_the_first_steps_are_left_out(tmp_path: Path, alone: Cluster) -> None:
    run = RunDir(tmp_path)
    profiler = StepProfiler(2, run, alone)
    train_some(profiler, 11, WAIT_STEPS + 4)
    profiler.finish()

    assert sorted(path.name for path in run.profile.iterdir()) == [
        "steps-14-15-rank0.json.gz",
        "steps-14-15.txt",
    ]
    assert names_in(run.profile / "steps-14-15-rank0.json.gz").count("forward") == 2
    text = (run.profile / "steps-14-15.txt").read_text()
    assert "2 step(s)" in text
    assert "aten::mm" in text
    (event,) = run.read_events()
    assert (event["event"], event["steps"]) == ("profile", "14-15")
    assert 0.0 < event["shares"]["forward"] <= 1.0


def test_a_run_that_ends_earlier_has_a_shorter_profile(tmp_path: Path, alone: Cluster) -> None:
    run = RunDir(tmp_path)
    profiler = StepProfiler(50, run, alone)
    train_some(profiler, 1, WAIT_STEPS + 1)
    profiler.finish()
    profiler.finish()

    assert (run.profile / "steps-4-4-rank0.json.gz").exists()
    assert len(run.read_events()) == 1


def test_a_run_that_ends_at_once_has_none_and_says_so(
    tmp_path: Path, alone: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(tmp_path)
    profiler = StepProfiler(2, run, alone)
    train_some(profiler, 1, WAIT_STEPS)
    profiler.finish()

    assert not run.profile.exists()
    assert "no profile" in caplog.text


def test_a_profile_that_cannot_be_written_ends_nothing(
    tmp_path: Path, alone: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    run = RunDir(tmp_path)
    run.profile.write_text("a file in the way")

    train_some(StepProfiler(1, run, alone), 1, WAIT_STEPS + 1)

    assert "the profile could not be written" in caplog.text


def test_no_range_is_made_where_no_profile_is_taken() -> None:
    assert not isinstance(span("forward"), torch.autograd.profiler.record_function)
    with torch.profiler.profile():
        assert isinstance(span("forward"), torch.autograd.profiler.record_function)
