"""Several training processes on one machine, without a launcher's own exit code and traceback.

torchrun ends with 1 and a traceback whatever its workers' exit codes were; here the first failure's code
is the command's, so that 75 still means "run me again" and 78 "mend the recipe".
"""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from pipeline.distributed import free_port
from pipeline.errors import UsageError

_GRACE_SECONDS = 20.0  # for the others to end by themselves, with the same verdict, after one has ended
_POLL_SECONDS = 0.1


def launch_copies(num_processes: int) -> int:
    """Run this very command, less --processes, as `num_processes` ranks; returns the exit code.

    Stop signals are passed on. When one process fails the others get a moment to end by themselves and
    are then stopped: none is left waiting in a collective.
    """
    if "WORLD_SIZE" in os.environ:
        raise UsageError("--processes: a launcher has already started this process; leave the option out")
    command = [sys.executable, "-m", "pipeline", *_without_option(sys.argv[1:], "--processes")]
    environment = _shared_environment(num_processes)
    processes = [
        # Sessions of their own: a Ctrl-C reaches them once, through pass_on.
        subprocess.Popen(
            command,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            start_new_session=True,
        )
        for rank in range(num_processes)
    ]

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, pass_on)
    return _wait(processes)


def _shared_environment(num_processes: int) -> dict[str, str]:
    cores = max(1, (os.cpu_count() or 1) // num_processes)
    return {
        "OMP_NUM_THREADS": str(cores),
        **os.environ,
        "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }


def _wait(processes: list[subprocess.Popen]) -> int:
    """Wait for all; after the first failure, at most the grace time for the rest."""
    deadline = None
    failure = 0
    while any(process.poll() is None for process in processes):
        time.sleep(_POLL_SECONDS)
        ended = [(rank, p.returncode) for rank, p in enumerate(processes) if p.returncode]
        if ended and deadline is None:
            failure, deadline = ended[0][1], time.monotonic() + _GRACE_SECONDS
            if failure < 0:
                name = signal.Signals(-failure).name
                print(f"error: rank {ended[0][0]} was ended by {name}; stopping the others", file=sys.stderr)
        if deadline is not None and time.monotonic() > deadline:
            for process in processes:
                process.kill()
    codes = [process.returncode for process in processes]
    failure = failure or next((code for code in codes if code), 0)
    return 128 - failure if failure < 0 else failure


def _without_option(arguments: list[str], option: str) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        if skip or argument.startswith(f"{option}="):
            skip = False
        elif argument == option:
            skip = True
        else:
            kept.append(argument)
    return kept
