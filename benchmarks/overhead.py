"""What a training step takes beside forward pass, backward pass and optimizer step.

    python -m benchmarks.overhead [--steps 60] [--processes 1 2]

A recipe (the demo) is trained for some steps, by one process and by two. On the main process everything
between the first and the last of these steps belongs to one part:

    forward, backward, optimizer   the engine's work: model, guidance operator, DeepSpeed with its collectives
    evaluation, checkpoints        listed, but no part of the step; they come as often as a recipe says
    the rest                       overhead: reading and masking rows, guidance targets and loss, agreeing on
                                   the counts of a step, log lines, and all Python between

`share` is the overhead's part of the time without evaluation and checkpoints. `busy_share` is the same by the
processor time of the process's main thread: it leaves out waiting, for slower processes as for a processor
that others use, and is the steadier one on a machine that is not idle.

The last line is one JSON object; its `share` and `busy_share` are the largest over the numbers of processes.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from benchmarks.matmul_peak import measured_peak_flops_per_second
from benchmarks.output import tell
from pipeline.errors import EXIT_STOPPED
from pipeline.processes.launch import launch
from pipeline.runs.run_dir import RunDir, describe_machine, read_json_lines

_WARM_UP_STEPS = 5
_ENGINE = ("forward", "backward", "optimizer")
_APART = ("evaluation", "checkpoints", "snapshots")
_OVERHEAD = (
    *("reading rows", "guidance targets", "guidance loss", "agreeing", "counting FLOPs", "log lines"),
    *("rest of the step", "between steps"),
)


class Parts:
    """Time of the calling thread by part; a part inside another counts for the inner one."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.busy: dict[str, float] = defaultdict(float)
        self._stack = ["between steps"]
        self._since = self._now()

    def measured(
        self, function: Callable[..., Any], part: str, inside: str | None = None
    ) -> Callable[..., Any]:
        """The function, whose calls are a part; with `inside` only those directly inside of that one."""

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if inside not in (None, self._stack[-1]):
                return function(*arguments, **options)
            self._close()
            self._stack.append(part)
            try:
                return function(*arguments, **options)
            finally:
                self._close()
                self._stack.pop()

        return call

    def begin(self) -> None:
        self._since = self._now()
        self.wall.clear()
        self.busy.clear()

    def end(self) -> dict[str, dict[str, float]]:
        self._close()
        return {"wall": dict(self.wall), "busy": dict(self.busy)}

    def _close(self) -> None:
        """Give the time since the last change to the part that is open."""
        now = self._now()
        self.wall[self._stack[-1]] += now[0] - self._since[0]
        self.busy[self._stack[-1]] += now[1] - self._since[1]
        self._since = now

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.thread_time()


def train_measured(out: Path, arguments: list[str]) -> int:
    """One process of a run: train as a user does, with the parts' functions measured."""
    import deepspeed

    from pipeline.__main__ import main as pipeline
    from pipeline.accounting.flops import FlopCounter
    from pipeline.data.batches import StepBatches
    from pipeline.guidance.loss import GuidanceLoss
    from pipeline.guidance.run import RunGuidance
    from pipeline.training import assembly, step
    from pipeline.training.checkpointing import Checkpointing
    from pipeline.training.trainer import Trainer

    parts = Parts()
    for owner, name, part in (
        (deepspeed.DeepSpeedEngine, "backward", "backward"),
        (deepspeed.DeepSpeedEngine, "step", "optimizer"),
        (StepBatches, "__getitem__", "reading rows"),
        (GuidanceLoss, "__call__", "guidance loss"),
        (step.StepRunner, "_agree", "agreeing"),
        (FlopCounter, "__call__", "counting FLOPs"),
        (Trainer, "_log", "log lines"),
        (Trainer, "_evaluate", "evaluation"),
        (assembly, "record_attention", "snapshots"),
        (assembly, "write_snapshot", "snapshots"),
        (Trainer, "_save", "checkpoints"),
        (Checkpointing, "finish", "checkpoints"),
        (Trainer, "_train_step", "rest of the step"),
    ):
        setattr(owner, name, parts.measured(getattr(owner, name), part))
    for owner, name, part in (  # an evaluation has these, too
        (deepspeed.DeepSpeedEngine, "forward", "forward"),
        (RunGuidance, "prepare", "guidance targets"),
    ):
        setattr(owner, name, parts.measured(getattr(owner, name), part, "rest of the step"))

    take_step, run_steps = Trainer._train_step, Trainer.run_steps

    def take_step_and_begin(trainer: Trainer, *rest: Any) -> Any:
        if trainer.step == _WARM_UP_STEPS:
            parts.begin()
        return take_step(trainer, *rest)

    def run_steps_and_tell(trainer: Trainer, *rest: Any) -> bool:
        done = run_steps(trainer, *rest)
        if trainer.cluster.is_main:
            out.write_text(json.dumps(parts.end()), encoding="utf-8")
        return done

    Trainer._train_step, Trainer.run_steps = take_step_and_begin, run_steps_and_tell  # type: ignore
    return pipeline(["train", *arguments])


def measure(recipe: str, num_processes: int, num_steps: int, directory: Path) -> dict[str, Any]:
    """Train in some processes; seconds of a step by part."""
    run, out = RunDir(directory / f"run-{num_processes}"), directory / f"parts-{num_processes}.json"
    overrides = {
        "run_dir": run.path,
        "train.num_steps": _WARM_UP_STEPS + num_steps,
        "evaluation.every_steps": 10**6,
        "evaluation.max_rows": 8,
        "checkpoint.every_steps": 10**6,
    }
    settings = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "benchmarks.overhead", "--worker", str(out), recipe, *settings]
    code = launch(command, num_processes)
    if code not in (0, EXIT_STOPPED):
        raise SystemExit(f"error: the training ended with exit code {code}")
    parts = json.loads(out.read_text(encoding="utf-8"))
    lines = [line for line in read_json_lines(run.metrics_file) if line["kind"] == "train"]
    return {
        "share": round(_overhead_share(parts["wall"]), 4),
        "busy_share": round(_overhead_share(parts["busy"]), 4),
        "step_milliseconds": {part: _milliseconds(parts["wall"], part, num_steps) for part in _all_parts()},
        "busy_milliseconds": {part: _milliseconds(parts["busy"], part, num_steps) for part in _all_parts()},
        "model_flops_per_second": round(lines[-1]["model_flops_per_second"]),
        "communication_share": round(lines[-1]["communication_share"] or 0.0, 4),
    }


def _overhead_share(seconds: dict[str, float]) -> float:
    """Of a step's time; whatever is neither the engine's nor apart is overhead."""
    step = sum(value for part, value in seconds.items() if part not in _APART)
    return 1 - sum(seconds.get(part, 0.0) for part in _ENGINE) / step


def _milliseconds(seconds: dict[str, float], part: str, num_steps: int) -> float:
    return round(1000 * seconds.get(part, 0.0) / num_steps, 3)


def _all_parts() -> tuple[str, ...]:
    return (*_ENGINE, *_OVERHEAD, *_APART)


def render(result: dict[str, Any]) -> str:
    lines = [f"{result['recipe']}, {result['steps']} steps, milliseconds per step (busy: of the main thread)"]
    by_processes = result["by_processes"]
    lines.append(f"  {'':<18}" + "".join(f"{f'{n} process(es)':>16}{'busy':>10}" for n in by_processes))
    for part in _all_parts():
        cells = "".join(
            f"{found['step_milliseconds'][part]:>16.2f}{found['busy_milliseconds'][part]:>10.2f}"
            for found in by_processes.values()
        )
        lines.append(f"  {part:<18}{cells}")
    shares = "".join(
        f"{100 * found['share']:>14.2f} %{100 * found['busy_share']:>8.2f} %"
        for found in by_processes.values()
    )
    lines.append(f"  {'overhead':<18}{shares}")
    for number, found in by_processes.items():
        share = found["model_flops_per_second"] / result["matmul_flops_per_second"]
        lines.append(
            f"  {number} process(es): {found['model_flops_per_second'] / 1e9:.1f} GFLOP/s of the model, "
            f"{100 * share:.0f} % of what a large matrix product gets here"
        )
    return "\n".join(lines)


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        return train_measured(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="demo", help="a recipe whose corpus is there")
    parser.add_argument("--steps", type=int, default=60, metavar="N", help="steps that are measured")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-overhead-") as name:
        found = {
            str(number): measure(arguments.recipe, number, arguments.steps, Path(name))
            for number in arguments.processes
        }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = {
        "benchmark": "overhead",
        "recipe": arguments.recipe,
        "steps": arguments.steps,
        "share": max(measured["share"] for measured in found.values()),
        "busy_share": max(measured["busy_share"] for measured in found.values()),
        "matmul_flops_per_second": round(measured_peak_flops_per_second(device)),
        "by_processes": found,
        **describe_machine(),
    }
    print(render(result))
    tell(result, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
