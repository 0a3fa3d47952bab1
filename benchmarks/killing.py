"""Waiting for a moment, and SIGKILL to the processes of a command."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

_POLL_SECONDS = 0.002
_PATIENCE_SECONDS = 300.0


def start(command: list[str], log: Path) -> subprocess.Popen:
    """Start a command; what it says is added to `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> bool:
    """Wait for a condition; False if the process ended before."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None:
        if condition():
            return True
        if time.monotonic() > deadline:
            raise TimeoutError(f"{process.args!r}: the moment to kill it did not come")
        time.sleep(_POLL_SECONDS)
    return False


def kill_all(process: subprocess.Popen) -> None:
    """SIGKILL to a command and to everything it has started."""
    try:
        family = psutil.Process(process.pid)
        for member in [*family.children(recursive=True), family]:
            member.kill()
    except psutil.NoSuchProcess:
        pass
    process.wait()


def kill_rank(process: subprocess.Popen, rank: int) -> bool:
    """SIGKILL to one rank of a launcher, and wait for the launcher's end; False if there was no such rank."""
    try:
        ranks = psutil.Process(process.pid).children()
        victim = next(p for p in ranks if p.environ().get("RANK") == str(rank))
        victim.kill()
    except (psutil.Error, StopIteration):
        return False
    process.wait()
    return True
