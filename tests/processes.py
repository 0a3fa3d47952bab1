"""Start commands as processes, forked from one that has imported everything, or genuine ones.

finished = run_command([sys.executable, "-m", "data_prep", "verify", corpus])      # to its end
running = start_command([sys.executable, "-m", "pipeline", "train", recipe])       # and meddle with it
"""

import contextlib
import functools
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from tests.fork_server import Command

ROOT = Path(__file__).parents[1]
_OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Read when a library is imported, so a forked process has the server's.
_READ_ON_IMPORT = (
    *("CUDA_", "DS_", "HF_", "KMP_", "MKL_", "NUMEXPR_", "OPENBLAS_", "PYTHON", "PYTORCH_"),
    *("TOKENIZERS_", "TORCH_", "TRANSFORMERS_", "TRITON_"),
)
_SECONDS = 400.0


@dataclass(frozen=True)
class Finished:
    """A process that has ended: its exit code (negative: killed by that signal) and all it printed."""

    code: int
    output: str


class Running:
    """A process under way and the ranks it has started, if it is a launcher.

    Attributes:
        pid: of the process that was started: the training itself, or its launcher.
    """

    def __init__(self, process: "subprocess.Popen[bytes] | _Forked", output: IO[bytes]) -> None:
        self._process, self._output = process, output
        self.pid = process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process that was started has yet to end."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """What it and its ranks have printed so far."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode()

    def pid_of(self, rank: int, seconds: float = 60.0) -> int:
        """The process of a rank; waits until its launcher has started it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.is_running:
            for process in psutil.Process(self.pid).children(recursive=True):
                if _is_rank(process, rank):
                    return process.pid
            time.sleep(0.02)
        raise AssertionError(f"there is no rank {rank}:\n{self.output}")

    def send_signal(self, number: int, rank: int | None = None) -> None:
        """Send a signal to one rank, or to the process that was started."""
        os.kill(self.pid if rank is None else self.pid_of(rank), number)

    def kill(self) -> None:
        """SIGKILL to the process that was started and to all it has started."""
        family = psutil.Process(self.pid)
        for process in [*family.children(recursive=True), family]:
            process.kill()

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end of the process that was started, but no longer than this."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.is_running

    def wait(self, seconds: float = _SECONDS) -> Finished:
        """Wait for the end of the process that was started; when it does not come all is killed."""
        if not self.ends_within(seconds):
            self.kill()
            raise AssertionError(f"it did not end within {seconds} seconds:\n{self.output}")
        return Finished(self._process.wait(0.0), self.output)


def start_command(
    command: list[str],
    *,
    genuine: bool = False,
    cwd: Path = ROOT,
    variables: Mapping[str, str] | None = None,
) -> Running:
    """Start a command in a session of its own; its output goes to one file, standard error included.

    Args:
        command: `[sys.executable, "-m", MODULE, ...]` of ours is forked, anything else is started.
        genuine: start it in any case, as a user would.
        cwd: where it runs.
        variables: of its environment, beside those of this process.
    """
    environment = _environment() | dict(variables or {})
    output = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process is of interest
    line = [str(part) for part in command]
    forkable = Command.read(line, environment, str(cwd))
    if genuine or forkable is None or _has_cuda():  # CUDA does not work in a forked process
        process = subprocess.Popen(
            line,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return Running(process, output)
    _check_variables(environment)
    return Running(_Forked(forkable, output), output)


def run_command(
    command: list[str],
    *,
    genuine: bool = False,
    cwd: Path = ROOT,
    variables: Mapping[str, str] | None = None,
) -> Finished:
    """Start a command and wait for its end; see `start_command`."""
    return start_command(command, genuine=genuine, cwd=cwd, variables=variables).wait()


class _Forked:
    """A process of the fork server, with what Running needs of subprocess.Popen."""

    def __init__(self, command: Command, output: IO[bytes]) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_server(), [b"!"], [output.fileno(), theirs.fileno()])
        self._channel.sendall(command.to_json())
        self._channel.shutdown(socket.SHUT_WR)
        self._replies = self._channel.makefile("r")
        self._code: int | None = None
        self.pid = int(self._read())

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._code_within(0.0)

    def wait(self, seconds: float) -> int:
        """The exit code, when it has ended."""
        code = self._code_within(seconds)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), seconds)
        return code

    def _code_within(self, seconds: float) -> int | None:
        if self._code is None and select.select([self._channel], [], [], seconds)[0]:
            self._code = int(self._read())
        return self._code

    def _read(self) -> str:
        with contextlib.suppress(ConnectionResetError):
            if line := self._replies.readline():
                return line
        raise RuntimeError("the fork server has ended; its standard error says why")


@functools.cache
def _server() -> socket.socket:
    """Start this process's fork server; it ends when the other end of its socket does."""
    ours, theirs = socket.socketpair()
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            cwd=ROOT,
            # Arrow would start a thread, and what is forked must have none.
            env=_environment() | {"JE_ARROW_MALLOC_CONF": "background_thread:false"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return ours


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in _OF_A_LAUNCHER}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _check_variables(environment: Mapping[str, str]) -> None:
    usual = _environment()
    changed = {key for key in {*usual, *environment} if usual.get(key) != environment.get(key)}
    frozen = sorted(key for key in changed if key.startswith(_READ_ON_IMPORT))
    assert not frozen, f"{', '.join(frozen)}: read when libraries are imported; start with genuine=True"


def _is_rank(process: psutil.Process, rank: int) -> bool:
    """Forked ranks are named so; that of another is in the environment it was started with."""
    try:
        return process.name() == f"rank {rank}" or process.environ().get("RANK") == str(rank)
    except psutil.Error:  # it has ended meanwhile
        return False


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
