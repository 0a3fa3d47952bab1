"""A model of the time of an optimizer step by the number of processes: a table from it, and a check of it.

    python -m benchmarks.scaling table RECIPE --tokens-per-second 110000 --bandwidth 200 --network 25
    python -m benchmarks.scaling check [--rounds 3] [--out FILE]

`table` takes the recipe as it is: its global batch is divided among more and more GPUs. Volumes are those of
`python -m pipeline plan`; what one GPU trains per second and the bandwidths are measured by the user, see
docs/scaling.md, which has the formulas. Nothing is trained.

`check` trains on 1, 2 and 4 processes of this machine, each with one thread, and says how far off the model
is. The processes share the machine's cores, so that compute falls only while there are cores for all; and
what they send goes through one memory, so that the bytes of all count together:

    t(N) = t(1) / min(N, cores) + N sent(N) / bandwidth

The bandwidth is fitted on two processes at ZeRO 1. Predicted are four at ZeRO 1, and two at ZeRO 2 with four
forward passes a step, which computes the same and sends three times as much. Rounds alternate, medians count;
a machine that does something else meanwhile makes it worthless.

The last line is one JSON object; of `check`, `ratios` are predicted over measured times.
"""

import argparse
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from benchmarks.checkpoint import run
from benchmarks.memory import make_corpus, read_plan
from benchmarks.output import tell
from benchmarks.resume import train_command
from pipeline.runs.run_dir import describe_machine, read_json_lines

_BACKWARD_SHARE = 2 / 3  # of compute
_GIGA = 1e9
_WARM_UP_STEPS, _STEPS = 3, 15
_WAYS = {"one": (1, "zero1"), "two": (2, "zero1"), "four": (4, "zero1"), "two, sending more": (2, "zero2")}
_PREDICTED = ("four", "two, sending more")


@dataclass(frozen=True)
class Inputs:
    """What has to be measured.

    Attributes:
        tokens_per_second: one process trains, without communication.
        bandwidth: bytes per second each process sends, within a node.
        network: the same for rings that leave the node.
        processes_per_node: how many share a node.
        fixed_seconds: of a step whatever its size: launches, the agreement on counts, logs.
    """

    tokens_per_second: float
    bandwidth: float
    network: float
    processes_per_node: int
    fixed_seconds: float

    def bandwidth_of(self, num_processes: int) -> float:
        """Of the ring that all form."""
        return self.bandwidth if num_processes <= self.processes_per_node else self.network


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by part; the parts that are not hidden add up.

    Attributes:
        compute: forward and backward passes, and the update.
        communication: whether hidden or not.
        hidden: of it, behind the backward pass.
        fixed: see Inputs.
    """

    compute: float
    communication: float
    hidden: float
    fixed: float

    @property
    def total(self) -> float:
        """All that is not hidden: compute + max(0, communication - overlap) + fixed."""
        return self.compute + self.communication - self.hidden + self.fixed


def step_time(plan: dict[str, Any], inputs: Inputs) -> StepTime:
    """The model, for a plan (the JSON of `python -m pipeline plan`).

    Gradients are reduced when a bucket is full, so all but the last one can hide behind the backward pass of
    the last micro-step; gathered weights (after the update, or before the layers need them) are not hidden.
    """
    processes, config = plan["processes"], plan["deepspeed_config"]
    volume = plan["communication"]
    compute = plan["tokens_per_step"] / processes / inputs.tokens_per_second
    ring = (processes - 1) / processes / inputs.bandwidth_of(processes)
    gradients = (2 * volume["all_reduce"] + volume["reduce_scatter"]) * ring
    zero = config["zero_optimization"]
    micro_steps = config["gradient_accumulation_steps"]
    reducing_passes = micro_steps if zero["stage"] >= 2 else 1
    num_buckets = -(-plan["parameters"] // zero.get("reduce_bucket_size", plan["parameters"]))
    hidden = 0.0
    if zero.get("overlap_comm") and num_buckets > 1:
        backward = _BACKWARD_SHARE * compute * reducing_passes / micro_steps
        hidden = min(gradients * (1 - 1 / num_buckets), backward)
    return StepTime(
        compute=compute,
        communication=gradients + volume["all_gather"] * ring,
        hidden=hidden,
        fixed=inputs.fixed_seconds,
    )


def make_table(recipe: str, overrides: list[str], counts: list[int], inputs: Inputs) -> list[dict[str, Any]]:
    """The model's lines for one process and for `counts` of them."""
    lines: list[dict[str, Any]] = []
    for processes in [1, *counts]:
        plan = read_plan(recipe, processes, overrides, "cuda")
        time = step_time(plan, inputs)
        rate = plan["tokens_per_step"] / time.total
        alone = lines[0]["tokens_per_second"] if lines else rate
        lines.append(
            {
                "processes": processes,
                "compute_ms": round(1000 * time.compute, 2),
                "communication_ms": round(1000 * time.communication, 2),
                "hidden_ms": round(1000 * time.hidden, 2),
                "step_ms": round(1000 * time.total, 2),
                "tokens_per_second": round(rate),
                "efficiency": round(rate / alone / processes, 3),
            }
        )
    return lines


def render_table(lines: list[dict[str, Any]]) -> str:
    names = list(lines[0])
    titles = "".join(f"{name.replace('_', ' '):>19}" for name in names)
    return "\n".join([titles, *("".join(f"{line[name]:>19,}" for name in names) for line in lines)])


def write_recipe(path: Path, corpus: Path) -> Path:
    """Little to compute for many parameters, so that communication can be seen."""
    recipe = {
        "run_dir": str(path.with_suffix("")),
        "corpus": str(corpus),
        "model": {
            **{"num_layers": 2, "hidden_size": 512, "num_heads": 8, "intermediate_size": 2048},
            **{"dropout": 0.0, "attention_dropout": 0.0},
        },
        "train": {
            **{"num_steps": _STEPS, "global_batch_size": 16, "micro_batch_size": 2},
            **{"precision": "fp32", "deepspeed": "zero1"},
        },
        "data": {"num_workers": 0},
        "evaluation": {"max_rows": 8},
        "logging": {"every_steps": 1, "tensorboard": False},
    }
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def time_step(recipe: Path, processes: int, overrides: list[str]) -> float:
    """Train, and the median seconds of a step."""
    run(train_command(str(recipe), processes, overrides))
    (run_dir,) = (Path(value[len("run_dir=") :]) for value in overrides if value.startswith("run_dir="))
    lines = [line for line in read_json_lines(run_dir / "metrics.jsonl") if line["kind"] == "train"]
    return statistics.median(line["step_seconds"] for line in lines[_WARM_UP_STEPS:])


def check(directory: Path, rounds: int) -> dict[str, Any]:
    """Measure every way; fit on two of them and predict the others."""
    os.environ["OMP_NUM_THREADS"] = "1"  # or one process would have all cores, and use them less well
    cores = os.cpu_count() or 1
    recipe = write_recipe(directory / "recipe.yaml", make_corpus(directory, 32768, 64))
    seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
    for turn in tqdm(range(rounds), disable=not sys.stderr.isatty()):
        for number, (way, (processes, stage)) in enumerate(_WAYS.items()):
            overrides = [f"train.deepspeed={stage}", f"run_dir={directory / f'run-{turn}-{number}'}"]
            seconds[way].append(time_step(recipe, processes, overrides))
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    compute, moved = {}, {}
    for way, (processes, stage) in _WAYS.items():
        plan = read_plan(recipe, processes, [f"train.deepspeed={stage}"], "cuda")
        compute[way] = medians["one"] / min(processes, cores)
        moved[way] = processes * plan["communication"]["sent_per_process"]
    extra = medians["two"] - compute["two"]
    if extra <= 0.0:
        raise SystemExit(
            f"error: two processes took {medians['two']:.3f} s per step, no more than what they compute "
            f"({compute['two']:.3f} s), so there is nothing to fit; run it on a machine that does nothing "
            "else, with more --rounds"
        )
    bandwidth = moved["two"] / extra
    predicted = {way: compute[way] + moved[way] / bandwidth for way in _PREDICTED}
    return {
        "step_seconds": {way: round(value, 4) for way, value in medians.items()},
        "moved_bytes": moved,
        "fitted_bytes_per_second": round(bandwidth),
        "predicted_seconds": {way: round(value, 4) for way, value in predicted.items()},
        "ratios": {way: round(value / medians[way], 3) for way, value in predicted.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="predict step times for many GPUs")
    table.add_argument("recipe")
    table.add_argument("--tokens-per-second", type=float, required=True, metavar="N", help="of one GPU")
    table.add_argument("--bandwidth", type=float, required=True, metavar="GB/S", help="within a node")
    table.add_argument("--network", type=float, required=True, metavar="GB/S", help="of rings over nodes")
    table.add_argument("--gpus-per-node", type=int, default=8, metavar="N")
    table.add_argument("--fixed-ms", type=float, default=0.0, metavar="MS", help="of every step")
    table.add_argument("--processes", type=int, nargs="+", default=[8, 64, 256], metavar="N")
    table.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    checking = commands.add_parser("check", help="compare with this machine")
    checking.add_argument("--rounds", type=int, default=3, metavar="N")
    for command in (table, checking):
        command.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON to this file")
    arguments = parser.parse_args()
    if arguments.command == "table":
        inputs = Inputs(
            tokens_per_second=arguments.tokens_per_second,
            bandwidth=arguments.bandwidth * _GIGA,
            network=arguments.network * _GIGA,
            processes_per_node=arguments.gpus_per_node,
            fixed_seconds=arguments.fixed_ms / 1000,
        )
        lines = make_table(arguments.recipe, arguments.overrides, arguments.processes, inputs)
        print(render_table(lines))
        tell({"benchmark": "scaling", "recipe": arguments.recipe, "table": lines}, arguments.out)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-scaling-") as directory:
        found = check(Path(directory), arguments.rounds)
    for way, (processes, stage) in _WAYS.items():
        told = "fitted"
        if way in _PREDICTED:
            told = f"predicted {found['predicted_seconds'][way]:.3f} s, {found['ratios'][way]} of it"
        print(f"{processes} process(es), {stage}: {found['step_seconds'][way]:.3f} s per step, {told}")
    tell({"benchmark": "scaling", **found, "rounds": arguments.rounds, **describe_machine()}, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
