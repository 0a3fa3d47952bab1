"""What two processes send each other in an optimizer step, counted and compared with the theory.

    python -m benchmarks.communication [--stages 0123] [--accumulation 1 4] [--out FILE]

A small model trains for a few steps at each ZeRO stage, with one and with several forward passes
(micro-steps) per step, as `python -m pipeline train` does it, with every collective of torch.distributed
counted. Bytes are counted, not times, so the machine does not matter. The step that is told is the last,
when DeepSpeed's stage 3 knows the order of the layers.

    gradients  payload of the reductions: the whole tensor, once
    weights    payload of the gatherings
    theory     the same after pipeline/planning/traffic.py
    sent       what each process sends in a ring, in models (w P bytes)
    ours       small ones: counts and flags of this project, one per step; DeepSpeed's gradient norms

A stage sends needlessly if its gradients grow with the micro-steps. They must at stages 2 and 3, which keep
only a share of them; so for accumulation stage 1 is the choice. The last line is one JSON object;
`largest_difference` is the largest difference from the theory, in bytes.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from benchmarks.memory import make_corpus, read_plan
from benchmarks.output import tell
from benchmarks.witness import Collective, train_witnessed
from pipeline.planning.traffic import Volume
from pipeline.runs.run_dir import describe_machine

STEPS = 7
_PROCESSES, _ROWS = 2, 16


def write_recipe(path: Path, corpus: Path) -> Path:
    """A recipe with a vocabulary that is large enough for stage 3 to divide, and layers that are not."""
    recipe = {
        "run_dir": str(path.with_suffix("")),
        "corpus": str(corpus),
        "model": {"num_layers": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128},
        "train": {"num_steps": STEPS, "global_batch_size": _ROWS, "precision": "fp32"},
        "data": {"num_workers": 0},
        "evaluation": {"max_rows": 8},
        "logging": {"tensorboard": False},
    }
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def overrides_of(stage: int, micro_steps: int, run_dir: Path) -> list[str]:
    """The same step at a stage, in so many forward passes."""
    rows = _ROWS // _PROCESSES // micro_steps
    return [f"train.deepspeed=zero{stage}", f"train.micro_batch_size={rows}", f"run_dir={run_dir}"]


def count_step(collectives: dict[Collective, int]) -> tuple[Volume, dict[str, int]]:
    """The volume of a step, and the bytes of its small collectives by who asked for them."""
    large = dict.fromkeys(("all_reduce", "reduce_scatter", "all_gather"), 0)
    small: dict[str, int] = {}
    for seen, count in collectives.items():
        if seen.is_small:
            small[seen.asked_by] = small.get(seen.asked_by, 0) + count * seen.payload
        else:
            large[seen.kind] += count * seen.payload
    return Volume(**large), small


def measure(recipe: Path, stage: int, micro_steps: int) -> dict[str, Any]:
    """Train, count, and ask the plan."""
    overrides = overrides_of(stage, micro_steps, recipe.with_name(f"run-{stage}-{micro_steps}"))
    plan = read_plan(recipe, _PROCESSES, overrides, "cuda")
    ranks = train_witnessed(recipe, _PROCESSES, overrides)
    counted = [count_step(rank.of_step(STEPS - 1)) for rank in ranks]
    if len({volume for volume, _ in counted}) > 1:
        raise SystemExit(f"error: the processes did not take part in the same collectives: {counted}")
    volume, small = counted[0]
    theory = {name: plan["communication"][name] for name in asdict(volume)}
    differences = {name: value - theory[name] for name, value in asdict(volume).items()}
    return {
        "stage": stage,
        "micro_steps": micro_steps,
        "model_bytes": 4 * plan["parameters"],
        "counted": asdict(volume),
        "theory": theory,
        "difference": max(map(abs, differences.values())),
        "sent_per_process": round(volume.sent(_PROCESSES)),
        "small": small,
    }


def render(found: list[dict[str, Any]]) -> str:
    lines = [
        f"{'stage':>5}{'passes':>8}{'gradients MB':>14}{'theory':>9}{'weights MB':>12}{'theory':>9}"
        f"{'sent/model':>12}{'ours B':>8}{'norms B':>9}"
    ]
    for line in found:
        volumes = []
        for side in ("counted", "theory"):
            volume = line[side]
            volumes.append((volume["all_reduce"] + volume["reduce_scatter"], volume["all_gather"]))
        (gradients, weights), (gradients_theory, weights_theory) = volumes
        ours = sum(size for name, size in line["small"].items() if name.startswith("pipeline"))
        norms = sum(line["small"].values()) - ours
        lines.append(
            f"{line['stage']:>5}{line['micro_steps']:>8}{gradients / 1e6:>14.3f}"
            f"{gradients_theory / 1e6:>9.3f}{weights / 1e6:>12.3f}{weights_theory / 1e6:>9.3f}"
            f"{line['sent_per_process'] / line['model_bytes']:>12.3f}{ours:>8}{norms:>9}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", default="0123", help="ZeRO stages (default 0123)")
    parser.add_argument(
        "--accumulation", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="micro-steps per step"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-communication-") as name:
        directory = Path(name)
        recipe = write_recipe(directory / "recipe.yaml", make_corpus(directory, 8192, 64))
        cases = [(int(stage), passes) for stage in arguments.stages for passes in arguments.accumulation]
        progress = tqdm(cases, disable=not sys.stderr.isatty())
        found = [measure(recipe, stage, passes) for stage, passes in progress]
    print(render(found))
    result = {
        "benchmark": "communication",
        "processes": _PROCESSES,
        "largest_difference": max(line["difference"] for line in found),
        "cases": found,
        **describe_machine(),
    }
    tell(result, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
