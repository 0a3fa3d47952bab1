"""Processes that have imported everything when they start: the server that forks them.

Importing torch, deepspeed and transformers takes a process several seconds; most tests of whole commands
would spend most of their time on it. The server imports them once, runs nothing of theirs, and forks itself
for every command. What comes out is a process of its own with its own session, environment, directory,
seeds and output, which runs `python -m MODULE` from the first line to its exit handlers, and forks the copies
of itself that it would start. Only the seed of Python's string hashes is the same in all of them, so what
depends on the order of a set differs between genuine processes alone. tests/processes.py is the way to use
the server.
"""

import atexit
import contextlib
import gc
import importlib
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

_LIBRARIES = (
    "pandas",  # which Arrow imports when it meets a table
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # with torch's compiler, whatever the optimizer
    "torch.utils.data",
    "torch.utils.tensorboard",
    "transformers.models.bert.modeling_bert",
    "transformers.models.modernbert.modeling_modernbert",
    "transformers.models.roberta.modeling_roberta",
)
_SET_BY_LIBRARIES: dict[str, str] = {}  # variables that appear when they are imported
_OURS = ("pipeline", "data_prep", "benchmarks", "tests")


@dataclass(frozen=True)
class Command:
    """`python -m MODULE ARGUMENTS` with an environment, in a directory."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    cwd: str

    @staticmethod
    def read(line: list[str], environment: dict[str, str], cwd: str) -> "Command | None":
        """A command line of ours; None for any other, which has to be started the usual way."""
        match line:
            case [sys.executable, "-m", str(module), *arguments] if module.partition(".")[0] in _OURS:
                return Command(module, arguments, environment, cwd)
        return None

    def to_json(self) -> bytes:
        """To be read back by from_json."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_json(text: bytes) -> "Command":
        """What to_json wrote."""
        return Command(**json.loads(text))


class ForkingPopen(subprocess.Popen):
    """Forks this process where a command of ours would be started, as the launcher does with its copies."""

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: Any,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        *rest: Any,
    ) -> None:
        command = Command.read(list(args), dict(os.environ if env is None else env), str(cwd or Path.cwd()))
        pipes = rest[3:9]
        if command is None or any(pipe != -1 for pipe in pipes):
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
            return
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            run_and_exit(command)
        self._child_created = True


def run_and_exit(command: Command, output: int | None = None) -> NoReturn:
    """Become a fresh process that runs `command`, and end as it does."""
    try:
        _become(command, output)
        code = _run(command)
    except BaseException:  # the frames below are the server's, which must not go on in this process
        traceback.print_exc()
        code = 1
    _exit(code)


def _become(command: Command, output: int | None) -> None:
    os.setsid()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) or number == signal.SIGCHLD:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    if output is not None:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(command.cwd)
    _forget_ours()
    _reset_libraries(command.environment.get("OMP_NUM_THREADS", str(os.cpu_count())))
    os.environ.clear()
    os.environ.update(_SET_BY_LIBRARIES | command.environment)
    if rank := os.environ.get("RANK"):
        Path("/proc/self/comm").write_text(f"rank {rank}")  # see Running.pid_of
    sys.argv = [command.module, *command.arguments]
    sys.path[0] = command.cwd
    subprocess.Popen = ForkingPopen


def _forget_ours() -> None:
    """Our modules take little time and are imported anew by each command, in its own order."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]
    for handler in logging.root.handlers[:]:
        logging.root.removeHandler(handler)


def _reset_libraries(num_threads: str) -> None:
    """Undo what the libraries settled when they were imported: seeds, the number of threads."""
    import numpy as np
    import torch

    np.random.seed()
    torch.seed()
    if num_threads != os.environ["OMP_NUM_THREADS"]:
        torch.set_num_threads(int(num_threads))


def _run(command: Command) -> int:
    try:
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _exit(code: int) -> NoReturn:
    """End the interpreter in order, but leave its memory as it is.

    Taking the libraries apart would copy all of it. An exception would unwind through the frames of the
    process that was forked.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def preload() -> None:
    """Import the libraries, in the environment that commands set up for them."""
    main = importlib.import_module("pipeline.__main__")
    main._set_up_logging()
    before = dict(os.environ)
    for name in _LIBRARIES:
        importlib.import_module(name)
    _SET_BY_LIBRARIES.update({key: value for key, value in os.environ.items() if key not in before})
    _forget_ours()
    gc.freeze()  # nothing of it is garbage: collections neither copy its pages nor take the time
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    assert len(threads) == 1, f"a process with threads must not be forked: {threads}"


def serve(control: socket.socket) -> None:
    """Fork a keeper for every request, until whoever makes them is gone.

    A request is one byte with two descriptors: the output, and a socket over which the command comes, and
    over which its process id and its exit code (negative for a signal, as in subprocess) go back.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers need no burial
    while True:
        request, descriptors, *_ = socket.recv_fds(control, 1, 2)
        if not request:
            return
        if os.fork() == 0:
            control.close()
            _keep(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(output: int, reply: int) -> NoReturn:
    """Start the command, tell its process id, wait for it, tell its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=reply) as channel:
        with channel.makefile("rb") as lines:
            command = Command.from_json(lines.read())
        pid = os.fork()
        if pid == 0:
            run_and_exit(command, output)
        channel.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            channel.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    preload()
    serve(socket.socket(fileno=int(sys.argv[1])))
