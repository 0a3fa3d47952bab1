"""The runs of a study: where they lie, what is left to do, and doing it by calling `train`.

STUDY/study.json                       the grid, and the machine that last worked on it
STUDY/runs/<cell>/seed-<n>/            a run directory each, with train.log, what `train` said
STUDY/study_results.json, table.md, *.png   see write.py
"""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from pipeline.errors import EXIT_LOST, EXIT_STOPPED, CheckpointError, DivergedError
from pipeline.processes.launch import available_cores
from pipeline.processes.stop import handle_stop_signals
from pipeline.runs.lock import living_owner
from pipeline.runs.run_dir import RunDir
from pipeline.study.grid import Cell

_POLL_SECONDS = 0.2
_LOG_NAME = "train.log"


class Outcome(Enum):
    """How a call of `train` ended."""

    DONE = "done"
    DIVERGED = "diverged"  # a finding, not a failure
    STOPPED = "stopped"
    ELSEWHERE = "trained by another process"
    FAILED = "failed"


@dataclass(frozen=True, eq=False)  # a cell's settings have no hash
class StudyRun:
    """One cell with one seed."""

    cell: Cell
    seed: int
    path: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.cell.name}, seed {self.seed}"

    def overrides(self) -> list[str]:
        """KEY=VALUE that make the recipe this run's."""
        settings = {**self.cell.settings, "seed": self.seed, "run_dir": str(self.path)}
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]

    def is_over(self) -> bool:
        """Whether there is nothing left to train."""
        run = RunDir(self.path)
        return any(event["event"] in ("done", "diverged") for event in run.read_events())


def run_all(
    runs: Sequence[StudyRun],
    recipe: str,
    overrides: Sequence[str],
    *,
    processes: int | None,
    parallel: int,
) -> dict[str, Outcome]:
    """Call `train` for every run, `parallel` of them at a time; returns the outcomes by name.

    A signal to stop is passed on; the runs save and stop, and no further one is begun. A run that fails does
    not keep the others from running.

    Args:
        runs: those that are not over.
        recipe: as for `train`.
        overrides: KEY=VALUE for all of them, before their own.
        processes: of each run, as `train --processes`; None for one without a launcher.
        parallel: runs at a time. They share the cores.
    """
    waiting, active = deque(runs), dict[StudyRun, subprocess.Popen]()
    outcomes: dict[str, Outcome] = {}
    stopping = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for process in active.values():
            process.send_signal(number)

    handle_stop_signals(stop)
    with tqdm(total=len(runs), unit="run", disable=not runs) as progress:
        while active or (waiting and not stopping):
            while waiting and len(active) < parallel and not stopping:
                run = waiting.popleft()
                if run.is_over() or living_owner(run.path) is not None:
                    outcomes[run.name] = Outcome.ELSEWHERE
                    progress.update()
                else:
                    active[run] = _start(run, recipe, overrides, processes, parallel)
                    if stopping:  # the signal came before there was whom to pass it on to
                        active[run].send_signal(signal.SIGTERM)
                progress.set_postfix_str("; ".join(run.name for run in active))
            for run, process in list(active.items()):
                code = _wait_a_little(process)
                if code is not None:
                    del active[run]
                    outcomes[run.name] = _outcome_of(run, code, stopping=stopping)
                    progress.update()
                    if outcomes[run.name] not in (Outcome.DONE, Outcome.ELSEWHERE):
                        progress.write(f"{run.name}: {outcomes[run.name].value}, see {run.path / _LOG_NAME}")
    return outcomes | {run.name: Outcome.STOPPED for run in waiting}


def _start(
    run: StudyRun, recipe: str, overrides: Sequence[str], processes: int | None, parallel: int
) -> subprocess.Popen:
    run.path.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pipeline", "train", recipe]
    command += [part for override in [*overrides, *run.overrides()] for part in ("--set", override)]
    if processes is not None:
        command += ["--processes", str(processes)]
    cores = max(1, available_cores() // (parallel * (processes or 1)))
    with (run.path / _LOG_NAME).open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(cores), **os.environ},
            start_new_session=True,  # a Ctrl-C reaches it once, through us
        )


def _wait_a_little(process: subprocess.Popen) -> int | None:
    try:
        return process.wait(timeout=_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _outcome_of(run: StudyRun, code: int, *, stopping: bool) -> Outcome:
    if code == 0:
        return Outcome.DONE
    if stopping or code in (EXIT_STOPPED, EXIT_LOST):  # a signal may come before `train` listens to it
        return Outcome.STOPPED
    if code == DivergedError.exit_code and run.is_over():
        return Outcome.DIVERGED
    if code == CheckpointError.exit_code and (run.is_over() or living_owner(run.path) is not None):
        return Outcome.ELSEWHERE  # both reached for it at once
    return Outcome.FAILED
