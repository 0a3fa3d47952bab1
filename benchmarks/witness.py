"""A training process that keeps count: its peak memory, and every collective that it takes part in.

    python -m benchmarks.witness DIRECTORY PROCESSES train RECIPE [ARGUMENTS]

is `python -m pipeline train RECIPE --processes PROCESSES ARGUMENTS`, and every rank leaves a file in
DIRECTORY. `train_witnessed` does it and reads what they leave.

A collective is counted where torch.distributed is asked for it, by DeepSpeed or by us: the bytes are those of
gloo and of NCCL alike. It belongs to the optimizer step during which it was asked for.
"""

import functools
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.accounting.resident import resident_peak_bytes
from pipeline.errors import EXIT_STOPPED
from pipeline.processes.launch import launch

BETWEEN_STEPS = -1
_COUNTED = (
    *("all_reduce", "reduce", "broadcast", "all_to_all_single"),
    *("all_gather", "all_gather_into_tensor", "_all_gather_base"),
    *("reduce_scatter", "reduce_scatter_tensor", "_reduce_scatter_base"),
)
_WHOLE = {  # the argument that is the whole tensor, of all processes together
    "all_gather": "tensor_list",
    "all_gather_into_tensor": "output_tensor",
    "_all_gather_base": "output_tensor",
    "reduce_scatter": "input_list",
    "reduce_scatter_tensor": "input",
    "_reduce_scatter_base": "input",
    "all_to_all_single": "input",
}
_KINDS = {
    "all_gather_into_tensor": "all_gather",
    "_all_gather_base": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "_reduce_scatter_base": "reduce_scatter",
}
_OURS = ("pipeline", "deepspeed")
_PASSING_ON = ("deepspeed.comm", "pipeline.processes.exchanges")  # on the way from who asks to torch


@dataclass(frozen=True)
class Collective:
    """A collective operation as it was asked for.

    Attributes:
        step: the optimizer step it belongs to, from 0; BETWEEN_STEPS for none.
        operation: of torch.distributed.
        asked_by: the package and the function that asked.
        values: in the whole tensor, that of all processes together.
        value_bytes: of each.
    """

    step: int
    operation: str
    asked_by: str
    values: int
    value_bytes: int

    @property
    def kind(self) -> str:
        """all_reduce, reduce_scatter or all_gather; torch has several ways to ask for the last two."""
        return _KINDS.get(self.operation, self.operation)

    @property
    def is_small(self) -> bool:
        """It is about counts, flags, norms or names rather than about weights."""
        return self.asked_by.startswith("pipeline") or self.value_bytes == 8 or self.values == 1

    @property
    def payload(self) -> int:
        """Bytes of the whole tensor."""
        return self.values * self.value_bytes


@dataclass(frozen=True)
class Account:
    """What a rank has seen.

    Attributes:
        peak_bytes: of the process's resident set, and on CUDA of torch's allocator.
        cuda_peak_bytes: None without CUDA.
        collectives: with the number of times.
    """

    peak_bytes: int
    cuda_peak_bytes: int | None
    collectives: dict[Collective, int]

    @property
    def measured_bytes(self) -> int:
        """The peak where the training took place."""
        return self.peak_bytes if self.cuda_peak_bytes is None else self.cuda_peak_bytes

    def of_step(self, step: int) -> dict[Collective, int]:
        """The collectives of one step."""
        return {seen: count for seen, count in self.collectives.items() if seen.step == step}


class Witness:
    """Counts what this process asks of torch.distributed."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.step = BETWEEN_STEPS
        self.seen: Counter[Collective] = Counter()
        self._is_inside = False

    def install(self) -> None:
        """Put a counter around torch's collectives and our step; before DeepSpeed takes hold of them."""
        for name in _COUNTED:
            counted = self._counting(name, getattr(dist, name))
            setattr(dist, name, counted)
            setattr(dist.distributed_c10d, name, counted)  # whole objects are sent from in there
        from pipeline.training.step import StepRunner

        run = StepRunner.run

        def run_counted(runner: StepRunner, step: int, *arguments: Any) -> Any:
            self.step = step
            try:
                return run(runner, step, *arguments)
            finally:
                self.step = BETWEEN_STEPS

        StepRunner.run = run_counted  # type: ignore[method-assign, assignment]

    def _counting(self, name: str, operation: Callable) -> Callable:
        signature = inspect.signature(operation)

        @functools.wraps(operation)
        def counted(*arguments: Any, **settings: Any) -> Any:
            if self._is_inside:  # one that is made of another
                return operation(*arguments, **settings)
            given = signature.bind(*arguments, **settings).arguments
            whole = given[_WHOLE.get(name, "tensor")]
            tensors = whole if isinstance(whole, list) else [whole]
            values, width = sum(tensor.numel() for tensor in tensors), tensors[0].element_size()
            self.seen[Collective(self.step, name, _who_asks(), values, width)] += 1
            self._is_inside = True
            try:
                return operation(*arguments, **settings)
            finally:
                self._is_inside = False

        return counted

    def write(self, directory: Path) -> None:
        """Leave this rank's file."""
        on_cuda = torch.cuda.is_available()
        account = {
            "peak_bytes": resident_peak_bytes(),
            "cuda_peak_bytes": torch.cuda.max_memory_allocated() if on_cuda else None,
            "collectives": [asdict(seen) | {"count": count} for seen, count in self.seen.items()],
        }
        path = directory / f"rank-{os.environ.get('RANK', '0')}.json"
        path.write_text(json.dumps(account), encoding="utf-8")


def read_account(path: Path) -> Account:
    """What a rank has left."""
    account = json.loads(path.read_text(encoding="utf-8"))
    seen = {
        Collective(**{key: value for key, value in entry.items() if key != "count"}): entry["count"]
        for entry in account.pop("collectives")
    }
    return Account(**account, collectives=seen)


def train_witnessed(
    recipe: Path | str, num_processes: int, overrides: list[str], *extra: str
) -> list[Account]:
    """Train and hear all ranks, in order; `overrides` are KEY=VALUE. A run that fails ends the benchmark."""
    with tempfile.TemporaryDirectory(prefix="witness-") as name:
        command = witness_command(Path(name), recipe, num_processes, overrides, *extra)
        finished = subprocess.run(command, check=False, capture_output=True, text=True)
        if finished.returncode not in (0, EXIT_STOPPED):
            raise SystemExit(f"{finished.stderr}error: {' '.join(command)} ended with {finished.returncode}")
        return read_accounts(Path(name), num_processes)


def witness_command(
    directory: Path, recipe: Path | str, num_processes: int, overrides: list[str], *extra: str
) -> list[str]:
    """The command that trains and leaves all ranks' files in `directory`."""
    command = [sys.executable, "-m", "benchmarks.witness", str(directory), str(num_processes)]
    return [*command, "train", str(recipe), *extra, *(part for o in overrides for part in ("--set", o))]


def read_accounts(directory: Path, num_processes: int) -> list[Account]:
    """What all ranks have left, in order."""
    return [read_account(directory / f"rank-{rank}.json") for rank in range(num_processes)]


def _who_asks() -> str:
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        package = name.partition(".")[0]
        if package in _OURS and not name.startswith(_PASSING_ON):
            return f"{package}: {frame.f_code.co_name}"
        frame = frame.f_back
    return "torch"


def main() -> int:
    directory, number, *arguments = sys.argv[1:]
    if "RANK" not in os.environ:
        return launch([sys.executable, "-m", "benchmarks.witness", *sys.argv[1:]], int(number))
    witness = Witness()
    witness.install()
    from pipeline.__main__ import main as run_command

    code = run_command(arguments)
    witness.write(Path(directory))
    return code


if __name__ == "__main__":
    sys.exit(main())
