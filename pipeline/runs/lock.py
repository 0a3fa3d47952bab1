"""One training per run directory, on one machine or on many that share a file system.

The owner holds an flock on RUN/.lock, has written there who it is, and touches the file every few seconds. On
one machine the flock decides. Between machines a network file system may not carry it, or keep that of a
machine that is gone, so an owner on another machine counts as alive as long as the file is being touched.
"""

import contextlib
import errno
import fcntl
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from pipeline.errors import CheckpointError

LOCK_NAME = ".lock"
BEAT_SECONDS = 5.0
DEAD_SECONDS = 30.0  # without a touch; a clock is not needed to be the same on two machines
_WORKER_SECONDS = 10.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Owner:
    """The main process of a training.

    Attributes:
        host: its machine.
        pid: its process number there.
        job: number of its SLURM job, if it is in one.
        since: when it took the lock, seconds since 1970.
    """

    host: str
    pid: int
    job: str | None
    since: float

    def __str__(self) -> str:
        job = f" (job {self.job})" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


class RunLock:
    """The right to write into a run directory."""

    def __init__(self, run_dir: Path) -> None:
        """Not taken yet."""
        self._run_dir = run_dir
        self._path = run_dir / LOCK_NAME
        self._last_beat = 0.0
        self._file: TextIO | None = None

    def acquire(self) -> None:
        """Take the lock and keep it until `release` or the end of this process.

        Raises:
            CheckpointError: another training is at work; the message says which.
        """
        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a+", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write the run directory {self._run_dir}: {error}") from error
        owner = read_owner(self._run_dir)
        if owner is not None and owner.host != platform.node():
            # A file server may keep the lock of a machine that is gone, so that touches decide.
            if self._is_touched():
                raise self._refusal(owner)
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif not self._is_locked(file, owner):
            raise self._refusal(owner)
        mine = Owner(platform.node(), os.getpid(), os.environ.get("SLURM_JOB_ID"), time.time())
        self._file = file
        self._write(file, json.dumps(asdict(mine)) + "\n")

    def _is_locked(self, file: TextIO, owner: Owner | None) -> bool:
        """Whether this process has the lock now, or no one has it where there are no locks."""
        # Loader workers of an owner that was killed hold it for a moment longer.
        is_dead = owner is not None and not _is_running(owner.pid)
        deadline = time.monotonic() + (_WORKER_SECONDS if is_dead else 0.0)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return owner is None or is_dead
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)

    def beat(self) -> None:
        """Show that the owner is alive; called often, touches the file now and then."""
        if self._file is not None and time.monotonic() - self._last_beat >= BEAT_SECONDS:
            self._last_beat = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        """Give the lock back, if it was taken, so that nobody has to wait for signs of life."""
        if self._file is not None:
            with contextlib.suppress(CheckpointError):
                self._write(self._file, "")
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)  # closing does not while a loader worker lives
            self._file.close()
            self._file = None

    def _write(self, file: TextIO, text: str) -> None:
        try:
            file.truncate(0)
            file.write(text)
            file.flush()
        except OSError as error:
            raise CheckpointError(f"cannot write {self._path}: {error}") from error

    def _is_touched(self) -> bool:
        """Watch the file for as long as a living owner would need to touch it."""
        before, deadline = self._path.stat().st_mtime_ns, time.monotonic() + DEAD_SECONDS
        while time.monotonic() < deadline:
            if self._path.stat().st_mtime_ns != before:
                return True
            time.sleep(1.0)
        return False

    def _refusal(self, owner: Owner | None) -> CheckpointError:
        return CheckpointError(
            f"{self._run_dir} is being trained by {owner or 'another process'}; stop that one first, or "
            "choose another run_dir"
        )


def read_owner(run_dir: Path) -> Owner | None:
    """Who wrote itself into the lock file last, alive or not; None if it was given back or never taken."""
    try:
        return Owner(**json.loads((run_dir / LOCK_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def living_owner(run_dir: Path) -> Owner | None:
    """The training at work in a run directory, as far as one can see without taking its lock."""
    owner = read_owner(run_dir)
    if owner is None:
        return None
    if owner.host == platform.node() and not _is_running(owner.pid):
        return None
    with contextlib.suppress(OSError):
        if time.time() - (run_dir / LOCK_NAME).stat().st_mtime < DEAD_SECONDS:
            return owner
    return None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
