"""Whether a job whose training has ended is to be queued again.

The exit code says why training ended, the run's events say whether starting again has helped so far: a
node that kills every start would otherwise keep a job going for ever.
"""

import os
import signal
from dataclasses import dataclass
from typing import Any

from data_prep.errors import EXIT_DATA, EXIT_DONE, EXIT_FILES, EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE
from pipeline.checkpoints.manifest import list_checkpoints, step_of
from pipeline.errors import EXIT_LOST, EXIT_STOPPED, RecipeError, UsageError
from pipeline.runs.run_dir import RunDir

_REQUEUED = {
    EXIT_STOPPED: "training stopped on request, with a good checkpoint",
    EXIT_LOST: "a process of the run died or hung",
}
_FINAL = {
    EXIT_DONE: "training is done",
    EXIT_USAGE: "the command line is wrong",
    EXIT_DATA: "the data is wrong",
    EXIT_INTERNAL: "training failed by a defect, see its traceback",
    EXIT_FILES: "checkpoints or files are damaged or cannot be written",
    RecipeError.exit_code: "the recipe is wrong",
    EXIT_INTERRUPTED: "training was interrupted",
}


@dataclass(frozen=True)
class Verdict:
    """Whether to queue the job again, and why."""

    requeue: bool
    reason: str


def judge(exit_code: int, step: int, past_steps: list[int], max_without_progress: int) -> Verdict:
    """The decision.

    Args:
        exit_code: that of training; of several processes, the highest.
        step: of the newest checkpoint, 0 without one.
        past_steps: the same at every earlier requeue of this job, oldest first.
        max_without_progress: so many requeues may pass without a newer checkpoint.
    """
    reason = _REQUEUED.get(exit_code) or _signal_told(exit_code)
    if reason is None:
        return Verdict(False, _FINAL.get(exit_code, "no exit code of training"))
    recent = past_steps[-max_without_progress:]
    if len(recent) == max_without_progress and step <= recent[0]:
        return Verdict(
            False, f"{reason}, and the last {max_without_progress} requeues brought no checkpoint after it"
        )
    return Verdict(True, reason)


def decide_requeue(run_dir: str, exit_code: int, max_without_progress: int) -> bool:
    """Decide for the SLURM job this process is in, write the event and print one line.

    Raises:
        UsageError: there is no such directory. One without recipe.yaml will do: a process may have died
            before the run had written anything.
    """
    run = RunDir(run_dir)
    if not run.path.is_dir():
        raise UsageError(f"{run_dir} is no directory; name the run_dir of the recipe")
    job = _slurm_job()
    step = max(map(step_of, list_checkpoints(run.checkpoints)), default=0)
    # Another job's requeues do not count: whoever submits again has looked after the cause.
    past_steps = [
        event["step"]
        for event in run.read_events()
        if event["event"] == "requeue" and event["job"] == job["job"]
    ]
    verdict = judge(exit_code, step, past_steps, max_without_progress)
    kind = "requeue" if verdict.requeue else "not requeued"
    run.add_event(kind, reason=verdict.reason, step=step, exit_code=exit_code, **job)
    print(f"{run.path}: {kind} at step {step} after exit code {exit_code}: {verdict.reason}", flush=True)
    return verdict.requeue


def _signal_told(exit_code: int) -> str | None:
    """128 + N is how shells and srun tell that signal N ended a process; Ctrl-C is a person's wish."""
    if exit_code == EXIT_INTERRUPTED:
        return None
    try:
        return f"a process was ended by {signal.Signals(exit_code - 128).name}"
    except ValueError:
        return None


def _slurm_job() -> dict[str, Any]:
    job = os.environ.get("SLURM_JOB_ID")
    return {
        "job": int(job) if job else None,
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
    }
