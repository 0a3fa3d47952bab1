"""Start real training processes, the ways a user does, and read what they leave.

    finished = train(recipe, "--stop-at", "6", *overrides(run_dir=run_dir), launcher="processes")
    assert finished.code == 75, finished.output

    running = start(recipe, *overrides(run_dir=run_dir), launcher="processes", processes=4)
    wait_for_lines(run_dir / "metrics.jsonl", 3, running)
    running.send_signal(signal.SIGKILL, rank=1)     # to the launcher without `rank`; running.kill() for all
    assert running.wait().code == 128 + signal.SIGKILL

These are processes of their own with real signals and a real process group, but of two kinds. Without a
launcher and with `--processes` they are forked by a server that has imported the libraries already
(tests/fork_server.py), which spares each of them seconds; `genuine=True` starts them as a user does, which
torchrun and deepspeed are always.
"""

import json
import sys
import time
from pathlib import Path

from pipeline.evaluation.results import newest_numbers, read_evaluations
from pipeline.runs.run_dir import read_json_lines
from tests.processes import Finished, Running, run_command, start_command

__all__ = [
    "Finished",
    "Running",
    "last_evaluation",
    "losses",
    "overrides",
    "read_metrics",
    "run_command",
    "start",
    "start_command",
    "train",
    "wait_for_lines",
]


def train(
    recipe: Path, *arguments: str, launcher: str = "none", processes: int = 2, genuine: bool = False
) -> Finished:
    """Train to the end of the processes; see `start`."""
    return start(recipe, *arguments, launcher=launcher, processes=processes, genuine=genuine).wait()


def start(
    recipe: Path, *arguments: str, launcher: str = "none", processes: int = 2, genuine: bool = False
) -> Running:
    """Start `train RECIPE ARGUMENTS` and leave it running.

    Args:
        recipe: its file.
        arguments: of the command.
        launcher: "none" for one process without any; "processes", "torchrun" or "deepspeed".
        processes: how many it starts; without a launcher there is one.
        genuine: start what a user would rather than fork it.
    """
    command = [*_command(launcher, processes), str(recipe), *arguments]
    return start_command(command, genuine=genuine)


def _command(launcher: str, processes: int) -> list[str]:
    python, number = sys.executable, str(processes)
    module = ["pipeline", "train"]
    if launcher == "none":
        return [python, "-m", *module]
    if launcher == "processes":
        return [python, "-m", *module, "--processes", number]
    if launcher == "torchrun":
        torchrun = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", number]
        return [*torchrun, "-m", *module]
    if launcher == "deepspeed":
        deepspeed = str(Path(python).with_name("deepspeed"))
        return [python, deepspeed, "--num_gpus", number, "--module", *module]
    raise ValueError(f"no launcher {launcher!r}")


def wait_for_lines(path: Path, count: int, running: Running, seconds: float = 120.0) -> None:
    """Wait until a log has `count` lines; an error if the run ends before that."""
    deadline = time.monotonic() + seconds
    while len(read_json_lines(path)) < count:
        assert running.is_running, f"the run has ended:\n{running.output}"
        assert time.monotonic() < deadline, f"the run logged nothing:\n{running.output}"
        time.sleep(0.05)


def compare_killed_run(recipe: Path, run_dir: Path, kill_at: int, compare_until: int) -> dict:
    """What benchmarks.resume says of two processes that are killed and started again."""
    options = ["--processes", "2", "--kill-at", str(kill_at), "--compare-until", str(compare_until)]
    command = [sys.executable, "-m", "benchmarks.resume", str(recipe), *options]
    finished = run_command([*command, *overrides(run_dir=run_dir)])
    assert finished.code == 0, finished.output
    return json.loads(finished.output.splitlines()[-1])


def read_metrics(run_dir: Path, kind: str = "train") -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run_dir)]


def last_evaluation(run_dir: Path, task: str) -> dict:
    """What `evaluate` wrote last for a task, with its newest figures as "numbers"."""
    entry = read_evaluations(run_dir / "evaluation" / f"{task}.json")[-1]
    return {**entry, "numbers": newest_numbers(entry)}


def overrides(**values: object) -> list[str]:
    """`train__num_steps=3` -> --set train.num_steps=3."""
    return [
        part
        for key, value in values.items()
        for part in ("--set", f"{key.replace('__', '.')}={'null' if value is None else value}")
    ]
