"""What real runs say of their speed, and that profiling them changes no number."""

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.resume import compare_logs
from pipeline.runs.run_dir import RunDir
from tests.e2e.running import overrides, read_metrics, train

PROCESSES = (1, 2)


@pytest.fixture(scope="module")
def runs(recipe_file, tmp_path_factory) -> Path:
    """The same steps in one process and in two, and in two with a profile; there is padding."""
    recipe = recipe_file(
        train={"num_steps": 8, "deepspeed": "zero2"}, logging={"every_steps": 2}, model={"dropout": 0.1}
    )
    directory = tmp_path_factory.mktemp("accounting")
    for name, processes, options in (("1", 1, []), ("2", 2, []), ("profiled", 2, ["--profile", "3"])):
        launcher = "none" if processes == 1 else "processes"
        settings = overrides(run_dir=directory / name)
        finished = train(recipe, *options, *settings, launcher=launcher, processes=processes)
        assert finished.code == 0, finished.output
    return directory


@pytest.mark.parametrize("processes", PROCESSES)
def test_every_line_accounts_for_its_steps(runs, processes):
    for line in read_metrics(runs / str(processes)):
        assert line["positions_per_second"] * line["step_seconds"] == pytest.approx(8 * 32)
        assert 0 < line["predicted_per_second"] < line["tokens_per_second"] <= line["positions_per_second"]
        assert line["mfu"] is None  # of a CPU
        assert 0 < line["step_seconds_p50"] <= line["step_seconds_p95"]
        shares = [line[f"{name}_share"] for name in ("guidance", "loader", "communication")]
        assert all(0 < share < 1 for share in shares)
        assert sum(shares) < 1
        assert 50e6 < line["peak_memory_bytes"] < 20e9


def test_flops_are_those_of_the_rows_however_they_are_dealt_out(runs):
    """Of a window of two steps, from the rates over it."""
    alone, together = (
        [line["model_flops_per_second"] * line["step_seconds"] for line in read_metrics(runs / str(number))]
        for number in PROCESSES
    )
    assert alone == pytest.approx(together, rel=1e-9)
    # Two layers of 2 (4 * 32^2 + 2 * 32 * 64) FLOPs a token, three times, and less than as much again.
    tokens = read_metrics(runs / "1")[0]["tokens"] / 2
    assert tokens * 3 * 2 * 16384 < alone[0]


def test_a_profile_changes_no_number(runs):
    compared, differences = compare_logs(RunDir(runs / "profiled"), RunDir(runs / "2"))
    assert compared == 6
    assert differences == []


def test_communication_is_deepspeeds_too(runs):
    """Beside our one exchange in each of the three steps, which are two micro-steps at ZeRO stage 2."""
    with gzip.open(RunDir(runs / "profiled").profile / "steps-4-6-rank0.json.gz") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert names.count("step") == 3
    assert names.count("communication") >= 3 * (1 + 2)


def test_a_profile_has_a_trace_of_every_process(runs):
    profile = RunDir(runs / "profiled").profile
    assert {path.name for path in profile.iterdir()} == {
        "steps-4-6-rank0.json.gz",
        "steps-4-6-rank1.json.gz",
        "steps-4-6.txt",
    }
    (event,) = [e for e in RunDir(runs / "profiled").read_events() if e["event"] == "profile"]
    assert all(0 < share < 1 for share in event["shares"].values())
    assert event["shares"].keys() == {
        *("loader", "forward", "backward", "optimizer", "guidance", "communication")
    }
