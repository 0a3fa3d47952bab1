"""What a kill costs: train, kill -9 every process, resume, and compare with an undisturbed run.

    python -m benchmarks.resume demo --processes 2 --kill-at 110 --compare-until 130

Two runs of one recipe: RUN_DIR-undisturbed goes straight to step --compare-until; RUN_DIR is killed when
its log shows step --kill-at, started again by the same command, and trains to its end. Every number in
the two logs that depends on the training, not on the clock, must then be the same, bit for bit.
"""

import argparse
import subprocess
import sys
import time
from typing import Any

from benchmarks.killing import kill_all
from benchmarks.output import tell
from pipeline.accounting.metrics import MEASURED_FIELDS
from pipeline.config.load import find_recipe, read_settings
from pipeline.errors import EXIT_STOPPED
from pipeline.runs.run_dir import RunDir, read_json_lines

_POLL_SECONDS = 0.05


def train_command(recipe: str, processes: int, overrides: list[str], *extra: str) -> list[str]:
    command = [sys.executable, "-m", "pipeline", "train", recipe, "--processes", str(processes), *extra]
    return command + [part for override in overrides for part in ("--set", override)]


def run_undisturbed(command: list[str]) -> None:
    code = subprocess.run(command, check=False).returncode
    if code not in (0, EXIT_STOPPED):
        raise SystemExit(f"error: the undisturbed run ended with exit code {code}")


def last_step(run: RunDir) -> int:
    lines = read_json_lines(run.metrics_file)
    return lines[-1]["step"] if lines else 0


def run_and_kill(command: list[str], run: RunDir, kill_at: int) -> int:
    """Start a run, kill -9 all its processes once it has logged `kill_at`; returns the step it had logged."""
    launcher = subprocess.Popen(command)
    while last_step(run) < kill_at:
        if launcher.poll() is not None:
            raise SystemExit(f"error: the run ended by itself with exit code {launcher.returncode}")
        time.sleep(_POLL_SECONDS)
    kill_all(launcher)
    return last_step(run)


def run_again(command: list[str], run: RunDir) -> float:
    """Start the run again and wait for its end; returns the seconds to its first new line in the log."""
    known = len(read_json_lines(run.events_file))
    started = time.monotonic()
    launcher = subprocess.Popen(command)
    resumed_at = None
    first_line = None
    while launcher.poll() is None:
        if resumed_at is None:
            new_events = read_json_lines(run.events_file)[known:]
            resumed_at = next((event["step"] for event in new_events if event["event"] == "resume"), None)
        elif first_line is None and last_step(run) > resumed_at:
            first_line = time.monotonic() - started
        time.sleep(_POLL_SECONDS if first_line is None else 1.0)
    if launcher.returncode or first_line is None:
        raise SystemExit(f"error: the resumed run ended with exit code {launcher.returncode}")
    return first_line


def compare_logs(run: RunDir, undisturbed: RunDir) -> tuple[int, list[str]]:
    """Number of lines compared and every difference in a field that does not come from the clock."""
    ours = {(line["kind"], line["step"]): _without_clock(line) for line in read_json_lines(run.metrics_file)}
    theirs = read_json_lines(undisturbed.metrics_file)
    differences = []
    for line in theirs:
        key = (line["kind"], line["step"])
        if ours.get(key) != _without_clock(line):
            differences.append(f"{key[0]} line of step {key[1]}: {ours.get(key)} != {_without_clock(line)}")
    return len(theirs), differences


def _without_clock(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in MEASURED_FIELDS}


def print_comparison(run: RunDir, undisturbed: RunDir, resumed_at: int) -> None:
    ours = {line["step"]: line for line in read_json_lines(run.metrics_file) if line["kind"] == "train"}
    print(f"\n{'step':>8}  {'undisturbed loss':<20} {'killed and resumed':<20} same bits")
    for line in read_json_lines(undisturbed.metrics_file):
        if line["kind"] == "train" and line["step"] > resumed_at:
            loss, other = line["loss"], ours[line["step"]]["loss"]
            print(f"{line['step']:>8}  {loss!r:<20} {other!r:<20} {'yes' if loss == other else 'NO'}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="a recipe; its run_dir must not exist yet")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kill-at", type=int, default=110, metavar="STEP")
    parser.add_argument("--compare-until", type=int, default=130, metavar="STEP")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    settings = read_settings(find_recipe(arguments.recipe), arguments.overrides)
    run, undisturbed = RunDir(settings["run_dir"]), RunDir(f"{settings['run_dir']}-undisturbed")
    for directory in (run, undisturbed):
        if directory.path.exists():
            raise SystemExit(f"error: {directory.path} exists; remove it or choose another run_dir")

    print(f"undisturbed run to step {arguments.compare_until}, in {undisturbed.path}", flush=True)
    elsewhere = [*arguments.overrides, f"run_dir={undisturbed.path}"]
    stop = ("--stop-at", str(arguments.compare_until))
    run_undisturbed(train_command(arguments.recipe, arguments.processes, elsewhere, *stop))

    print(f"the run, to be killed at step {arguments.kill_at}, in {run.path}", flush=True)
    command = train_command(arguments.recipe, arguments.processes, arguments.overrides)
    killed_at = run_and_kill(command, run, arguments.kill_at)
    print(
        f"killed every process with SIGKILL at step {killed_at}; starting the same command again", flush=True
    )
    seconds = run_again(command, run)

    events = run.read_events()
    resumed_at = next(event["step"] for event in events if event["event"] == "resume")
    saves = [event["seconds"] for event in events if event["event"] == "checkpoint"]
    compared, differences = compare_logs(run, undisturbed)
    print_comparison(run, undisturbed, resumed_at)
    print("\n".join(differences) or f"all {compared} lines of the two logs are equal, bit for bit")
    result = {
        "benchmark": "resume",
        "device": "cuda" if _has_cuda() else "cpu",
        "processes": arguments.processes,
        "killed_at_step": killed_at,
        "resumed_at_step": resumed_at,
        "lines_compared": compared,
        "identical": not differences,
        "seconds_to_first_logged_step": round(seconds, 2),
        "seconds_per_checkpoint": round(sum(saves) / len(saves), 3),
    }
    tell(result)
    return 0 if not differences else 1


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
