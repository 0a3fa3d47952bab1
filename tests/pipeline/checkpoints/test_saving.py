"""A checkpoint is published when all of it is on disk, and not otherwise. The engine is made up."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoints import saving
from pipeline.checkpoints.loading import Source, load_checkpoint, read_state
from pipeline.checkpoints.manifest import find_damage, newest_usable, read_checkpoint_manifest
from pipeline.checkpoints.saving import CheckpointSaver
from pipeline.errors import CheckpointError
from pipeline.processes.cluster import Cluster
from tests.pipeline.checkpoints.fake_engine import FakeEngine

_FAILURES = [
    OSError(28, "No space left on device"),
    RuntimeError("file write failed"),
    MemoryError(),
    ValueError("failed to pickle"),
]
both_ways = pytest.mark.parametrize("asynchronous", [False, True])


def save(
    cluster: Cluster,
    directory: Path,
    step: int,
    engine: FakeEngine | None = None,
    asynchronous: bool = False,
) -> Path:
    saver = CheckpointSaver(cluster, engine or FakeEngine(), directory, zero_stage=2)
    saver.begin(step, {"mine": torch.arange(3)}, asynchronous=asynchronous)
    assert saver.publish().step == step
    return newest_usable(directory)[0]


@both_ways
def test_published_checkpoint_is_whole_and_latest(tmp_path: Path, alone: Cluster, asynchronous: bool) -> None:
    path = save(alone, tmp_path, 40, asynchronous=asynchronous)

    assert path == tmp_path / "step-00000040"
    assert find_damage(path) is None
    assert (tmp_path / "latest").read_text(encoding="utf-8") == "step-00000040\n"
    manifest = read_checkpoint_manifest(path)
    assert (manifest.step, manifest.world_size, manifest.zero_stage) == (40, 1, 2)
    assert set(manifest.files) == {"model.pt", "state-rank-00000.pt"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["latest", "step-00000040"]


@both_ways
def test_weights_and_own_state_come_back(tmp_path: Path, alone: Cluster, asynchronous: bool) -> None:
    source = Source(save(alone, tmp_path, 40, FakeEngine(torch.ones(3)), asynchronous), None, 1)
    engine = FakeEngine()

    load_checkpoint(engine, source)

    assert engine.weights.tolist() == [1, 1, 1]
    assert read_state(source, 0)["mine"].tolist() == [0, 1, 2]
    assert engine.optimizer.param_groups[0]["weight_decay"] == 0.1, "settings are the recipe's"


def test_training_that_goes_on_does_not_reach_into_the_checkpoint(
    tmp_path: Path, alone: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are changed in place while the thread still waits to write them."""
    may_write = threading.Event()
    write = torch.save

    def slow(value: Any, path: Path) -> None:
        may_write.wait(10)
        write(value, path)

    monkeypatch.setattr(saving.torch, "save", slow)
    engine = FakeEngine()
    state = {"mine": torch.arange(3)}
    saver = CheckpointSaver(alone, engine, tmp_path, zero_stage=1)
    saver.begin(7, state, asynchronous=True)
    assert saver.is_pending
    assert not saver.is_written
    assert newest_usable(tmp_path) == (None, [])
    engine.weights.fill_(9)
    state["mine"].fill_(9)
    may_write.set()
    saver.publish()

    source = Source(tmp_path / "step-00000007", None, 1)
    load_checkpoint(engine, source)
    assert engine.weights.tolist() == [0, 0, 0]
    assert read_state(source, 0)["mine"].tolist() == [0, 1, 2]


def test_a_second_save_reuses_the_memory_of_the_first(tmp_path: Path, alone: Cluster) -> None:
    engine = FakeEngine()
    saver = CheckpointSaver(alone, engine, tmp_path, zero_stage=1)
    for step in (1, 2):
        engine.weights.fill_(step)
        saver.begin(step, {}, asynchronous=True)
        saver.publish()

    for step in (1, 2):
        load_checkpoint(engine, Source(tmp_path / f"step-{step:08d}", None, 1))
        assert engine.weights.tolist() == [step] * 3


def test_leftovers_of_a_killed_save_are_not_published(tmp_path: Path, alone: Cluster) -> None:
    partial = tmp_path / ".partial-step-00000040"
    partial.mkdir()
    (partial / "half-written.pt").write_text("junk", encoding="utf-8")
    assert newest_usable(tmp_path) == (None, [])

    path = save(alone, tmp_path, 40)

    assert not (path / "half-written.pt").exists()
    assert not partial.exists()


@both_ways
@pytest.mark.parametrize("error", _FAILURES)
def test_failed_save_publishes_nothing(
    tmp_path: Path, alone: Cluster, monkeypatch: pytest.MonkeyPatch, error: Exception, asynchronous: bool
) -> None:
    save(alone, tmp_path, 20)
    engine = FakeEngine()

    def fail(_value: Any, path: Path) -> None:
        path.write_text("half", encoding="utf-8")
        raise error

    monkeypatch.setattr(saving.torch, "save", fail)
    with pytest.raises(
        CheckpointError, match=r"rank 0 cannot write the checkpoint .*(No space|failed|MemoryError)"
    ):
        save(alone, tmp_path, 40, engine, asynchronous)

    assert engine.barriers == 1, "the others wait there"
    assert newest_usable(tmp_path)[0] == tmp_path / "step-00000020"
    assert (tmp_path / "latest").read_text(encoding="utf-8") == "step-00000020\n"
    assert not (tmp_path / ".partial-step-00000040").exists(), "it may be what fills the disk"


def test_published_step_is_not_overwritten(tmp_path: Path, alone: Cluster) -> None:
    path = save(alone, tmp_path, 20, FakeEngine(torch.ones(3)))

    with pytest.raises(CheckpointError, match="cannot publish"):
        save(alone, tmp_path, 20)

    assert find_damage(path) is None
    assert torch.load(path / "model.pt")["weights"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("problem", ["nothing loaded", "another step"])
def test_loading_something_else_is_an_error(
    tmp_path: Path, alone: Cluster, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    """DeepSpeed only warns when it finds nothing to load."""
    source = Source(save(alone, tmp_path, 20), None, 1)
    engine = FakeEngine()
    loaded, engine.global_steps = (None, 20) if problem == "nothing loaded" else ("x", 10)
    monkeypatch.setattr(engine, "load_checkpoint", lambda *_args, **_kwargs: (loaded, {}))

    with pytest.raises(CheckpointError, match="step-00000020"):
        load_checkpoint(engine, source)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, alone: Cluster) -> None:
    (tmp_path / "checkpoints").write_text("a file", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*checkpoints"):
        save(alone, tmp_path / "checkpoints", 20)


def test_a_saved_checkpoint_may_be_copied(tmp_path: Path, alone: Cluster) -> None:
    path = save(alone, tmp_path / "here", 10)
    moved = shutil.copytree(path, tmp_path / "there" / path.name)
    assert find_damage(moved) is None
