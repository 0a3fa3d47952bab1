"""One training per run directory; a dead one does not count."""

import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError
from pipeline.runs import lock as lock_module
from pipeline.runs.lock import RunLock, living_owner, read_owner

HOLD = """
import sys, time
from pathlib import Path
from pipeline.runs.lock import RunLock
lock = RunLock(Path(sys.argv[1])); lock.acquire(); print("held", flush=True); time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def write_owner(tmp_path: Path, host: str, pid: int = 1) -> None:
    owner = {"host": host, "pid": pid, "job": "77", "since": 0.0}
    (tmp_path / ".lock").write_text(json.dumps(owner), encoding="utf-8")


def test_the_second_is_refused_and_told_who_the_first_is(tmp_path: Path, other: subprocess.Popen) -> None:
    with pytest.raises(CheckpointError, match=f"process {other.pid} on {platform.node()}"):
        RunLock(tmp_path).acquire()
    assert living_owner(tmp_path).pid == other.pid


def test_a_killed_owner_is_taken_over_from(tmp_path: Path, other: subprocess.Popen) -> None:
    other.kill()
    other.wait()
    assert living_owner(tmp_path) is None

    lock = RunLock(tmp_path)
    lock.acquire()

    assert read_owner(tmp_path).pid == os.getpid()
    lock.release()


def test_a_lock_that_the_file_server_keeps_for_a_dead_machine_is_taken_over(
    tmp_path: Path, other: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here another process keeps it; what is written says that the owner's machine is gone."""
    monkeypatch.setattr(lock_module, "DEAD_SECONDS", 0.1)
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 0.1)
    write_owner(tmp_path, "elsewhere")
    RunLock(tmp_path).acquire()
    assert read_owner(tmp_path).host == platform.node()
    assert other.poll() is None


def test_a_lock_given_back_names_nobody(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert read_owner(tmp_path) is None
    RunLock(tmp_path).acquire()


def test_an_owner_on_another_machine_that_touches_the_file_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a network file system without locks looks like."""
    monkeypatch.setattr(lock_module, "DEAD_SECONDS", 5.0)
    write_owner(tmp_path, "elsewhere", 4711)
    timer = threading.Timer(0.5, os.utime, [tmp_path / ".lock"])
    timer.start()
    with pytest.raises(CheckpointError, match=r"process 4711 on elsewhere \(job 77\)"):
        RunLock(tmp_path).acquire()
    assert living_owner(tmp_path).host == "elsewhere"


def test_an_owner_on_another_machine_that_has_gone_quiet_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "DEAD_SECONDS", 0.1)
    write_owner(tmp_path, "elsewhere")
    RunLock(tmp_path).acquire()
    assert read_owner(tmp_path).host == platform.node()


def test_file_systems_without_locks_rely_on_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock_module.fcntl, "flock", unsupported)
    write_owner(tmp_path, platform.node(), os.getppid())
    with pytest.raises(CheckpointError, match=f"process {os.getppid()}"):
        RunLock(tmp_path).acquire()
    write_owner(tmp_path, platform.node(), 2**22 + 1)
    RunLock(tmp_path).acquire()


def test_a_beat_touches_the_file_of_an_owner_only(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.beat()
    assert not (tmp_path / ".lock").exists()
    lock.acquire()
    os.utime(tmp_path / ".lock", (0, 0))
    lock.beat()
    assert (tmp_path / ".lock").stat().st_mtime > 0


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"cannot write the run directory .*file"):
        RunLock(tmp_path / "file").acquire()
