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

from data_prep.errors import EXIT_INTERNAL
from pipeline.errors import EXIT_STOPPED, UsageError
from pipeline.processes.cluster import free_port
from pipeline.processes.stop import LAUNCHER_VARIABLE, handle_stop_signals

_GRACE_SECONDS = 20.0  # for the others to end by themselves, with the same verdict, after one has ended
_POLL_SECONDS = 0.1
_GOOD_CODES = (None, 0, EXIT_STOPPED)  # None: still running


def launch_copies(num_processes: int, stop_signal: str | None = None) -> int:
    """Run this very command, less --processes, as `num_processes` ranks; returns the exit code.

    Stop signals are passed on. When one process fails the others get a moment to end by themselves and
    are then stopped: none is left waiting in a collective.
    """
    if "WORLD_SIZE" in os.environ:
        raise UsageError("--processes: a launcher has already started this process; leave the option out")
    command = [sys.executable, "-m", "pipeline", *_without_option(sys.argv[1:], "--processes")]
    return launch(command, num_processes, stop_signal)


def launch(command: list[str], num_processes: int, stop_signal: str | None = None) -> int:
    """Run a command as `num_processes` ranks of one process group; returns the exit code."""
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

    handle_stop_signals(pass_on, stop_signal)
    return _wait(processes)


def available_cores() -> int:
    """Cores that this process may use: of a SLURM job, those it was given."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _shared_environment(num_processes: int) -> dict[str, str]:
    cores = max(1, available_cores() // num_processes)
    return {
        "OMP_NUM_THREADS": str(cores),
        **os.environ,
        LAUNCHER_VARIABLE: str(os.getpid()),
        "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }


def _wait(processes: list[subprocess.Popen]) -> int:
    """Wait for all; after the first failure, at most the grace time for the rest."""
    deadline = None
    # All are asked each time: the first may hang for ever while another has ended.
    while None in [process.poll() for process in processes]:
        time.sleep(_POLL_SECONDS)
        # A process that stopped on request has agreed on it with the others: they will end, too.
        ended = [(rank, p.returncode) for rank, p in enumerate(processes) if p.returncode not in _GOOD_CODES]
        if ended and deadline is None:
            rank, code = ended[0]
            deadline = time.monotonic() + _GRACE_SECONDS
            if code < 0:
                name = signal.Signals(-code).name
                print(f"error: rank {rank} was ended by {name}; stopping the others", file=sys.stderr)
        if deadline is not None and time.monotonic() > deadline:
            for process in processes:
                process.kill()
    return exit_code([process.returncode for process in processes])


def exit_code(codes: list[int]) -> int:
    """The command's exit code for its processes': a cause rather than a consequence.

    When one process fails, the others end with a broken collective (70) or by our SIGKILL; so any other
    code comes first, then a signal, then 70.
    """
    failed = [code for code in codes if code]
    told = [code for code in failed if code > 0 and code != EXIT_INTERNAL]
    signals = [128 - code for code in failed if code < 0]
    return (told or signals or failed or [0])[0]


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
