"""Rates, shares and MFU of a training line, from known sums and known times."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipeline.accounting.metrics import WindowSums
from pipeline.build import Corpus, build_batches
from pipeline.config.schema import Recipe
from pipeline.processes.cluster import Cluster
from pipeline.runs.run_dir import RunDir, read_json_lines
from pipeline.training import training_log
from pipeline.training.training_log import TrainingLog
from tests.pipeline.fake_clock import FakeClock


@dataclass
class TwoAlike(Cluster):
    """Two processes that have counted the same, the other of which has had more memory."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values.mul_(2)

    def gather(self, value: int) -> list[int]:
        return [value, 10 * value]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


@pytest.fixture
def make_log(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TrainingLog]:
    def make(cluster: Cluster, peak: float | None = None) -> TrainingLog:
        monkeypatch.setattr(training_log, "peak_of", lambda device, precision: peak)
        monkeypatch.setattr(training_log, "peak_memory_bytes", lambda device: 500)
        window = WindowSums(cluster.device)
        recipe = make_recipe()
        batches = build_batches(recipe, Corpus.open(recipe.corpus).vocabulary, cluster.world_size, 0)
        log = TrainingLog(recipe, RunDir(tmp_path), cluster, window, batches)
        log.open(0)
        return log

    return make


def write_line(log: TrainingLog, clock: FakeClock) -> dict:
    """The line of two steps of two seconds each."""
    for _ in range(2):
        with log.timings.step():
            clock.advance(2.0)
        log.window.add({"steps": 1, "tokens": 200, "positions": 256, "predicted": 30, "flops": 4e9})
        log.window.add({"loss": torch.tensor(60.0), "correct": torch.tensor(3)})
    log.write_training(2, None)
    return read_json_lines(log.run.metrics_file)[-1]


def test_rates_are_sums_over_the_time_of_the_steps(
    make_log: Callable[..., TrainingLog], clock: FakeClock, alone: Cluster
) -> None:
    log = make_log(alone)
    line = write_line(log, clock)

    assert line["tokens_per_second"] == 400 / 4
    assert line["positions_per_second"] == 2 * 256 / 4
    assert line["predicted_per_second"] == 60 / 4
    assert line["model_flops_per_second"] == 8e9 / 4
    assert (line["step_seconds"], line["step_seconds_p50"], line["step_seconds_p95"]) == (2.0, 2.0, 2.0)
    assert line["peak_memory_bytes"] == 500
    assert line["mfu"] is None
    epochs = 2 * log.recipe.train.global_batch_size / log._batches.parts[0].batcher.split.num_rows
    assert (line["loss"], line["epoch"], line["tokens"]) == (2.0, epochs, 400)
    assert not {"flops", "predicted", "positions", "steps"} & line.keys()


def test_mfu_is_per_device_and_shown(
    make_log: Callable[..., TrainingLog], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    both = TwoAlike(rank=0, local_rank=0, world_size=2, device=torch.device("cpu"))

    line = write_line(make_log(both, peak=8e9), clock)

    assert line["model_flops_per_second"] == 2 * 8e9 / 4
    assert line["mfu"] == 8e9 / 4 / 8e9
    assert "MFU 25.0 %" in caplog.text
    assert line["peak_memory_bytes"] == 5000


def test_lines_go_on_after_a_restart(
    make_log: Callable[..., TrainingLog], clock: FakeClock, alone: Cluster
) -> None:
    before = make_log(alone)
    write_line(before, clock)
    with before.timings.step():
        clock.advance(6.0)
    state = before.state()
    clock.advance(1000.0)
    after = make_log(alone)
    after.restore(state)

    line = write_line(after, clock)

    assert line["tokens"] == 800
    assert line["step_seconds_p50"] == 2.0
    assert line["tokens_per_second"] == 400 / 10


def test_memory_is_that_of_this_process() -> None:
    import psutil

    peak = training_log.peak_memory_bytes(torch.device("cpu"))
    block = bytearray(peak - psutil.Process().memory_info().rss + 64 * 2**20)
    block[:: 2**12] = b"1" * len(block[:: 2**12])

    assert training_log.peak_memory_bytes(torch.device("cpu")) > peak + 2**25
