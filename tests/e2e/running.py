"""Start real training processes, the ways a user does."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCHERS = {
    "none": [sys.executable, "-m", "pipeline", "train"],
    "processes": [sys.executable, "-m", "pipeline", "train", "--processes", "2"],
    "torchrun": [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "pipeline", "train"),
    ],
    "deepspeed": [
        *(sys.executable, str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2"),
        *("--module", "pipeline", "train"),
    ],
}


@dataclass(frozen=True)
class Finished:
    """A process that has ended: its exit code and all it printed."""

    code: int
    output: str


def run_command(command: list[str]) -> Finished:
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    return Finished(process.returncode, process.stdout)


def train(recipe: Path, *arguments: str, launcher: str = "none") -> Finished:
    return run_command([*LAUNCHERS[launcher], str(recipe), *arguments])


def read_metrics(run_dir: Path, kind: str = "train") -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run_dir)]


def overrides(**values: object) -> list[str]:
    """`train__num_steps=3` -> --set train.num_steps=3."""
    return [
        part
        for key, value in values.items()
        for part in ("--set", f"{key.replace('__', '.')}={'null' if value is None else value}")
    ]
