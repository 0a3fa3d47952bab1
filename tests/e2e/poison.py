"""Train with losses that go wrong: python -m tests.e2e.poison SPEC PROCESSES RECIPE ...

SPEC is JSON: the losses of certain rows, or only their gradients, are multiplied by a factor (NaN, or a large
number) in certain steps, on whichever process has them. A step with NaN must leave weights and optimizer as
they are, to the bit, and any other must not; otherwise the process ends with an AssertionError. The launcher
starts its copies of this module's command line, so the fault is put into each of them.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch

from pipeline.__main__ import main
from pipeline.engine import PretrainingModule
from pipeline.objectives.protocol import Scored
from pipeline.processes import launch
from pipeline.training.step import StepRunner


@dataclass(frozen=True)
class Poison:
    """What goes wrong.

    Attributes:
        steps: in which steps, as the logs count, from 1.
        rows: in which rows; None: in all.
        factor: what is multiplied.
        only_gradient: the losses stay as they are.
    """

    steps: list[int]
    rows: list[int] | None
    factor: float = math.nan
    only_gradient: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def put_in(poison: Poison) -> None:
    run, forward = StepRunner.run, PretrainingModule.forward

    def run_poisoned(runner: StepRunner, step: int, *arguments: Any) -> Any:
        if step + 1 not in poison.steps:
            return run(runner, step, *arguments)
        batches = runner.row_losses.batches.part_of(step)
        rows_of_micro_steps = iter(batches.rows(step)[batches.geometry.rows_of_rank()])

        def forward_poisoned(module: PretrainingModule, *inputs: Any) -> Scored:
            scored = forward(module, *inputs)
            term, losses, rows = scored.terms["mlm"], scored.rows[0], next(rows_of_micro_steps)
            hit = np.full(rows.shape, True) if poison.rows is None else np.isin(rows, poison.rows)
            factors = torch.where(torch.from_numpy(hit), poison.factor, 1.0)
            if poison.only_gradient:
                if hit.any():
                    term.sum.register_hook(lambda gradient: gradient * poison.factor)
                return scored
            poisoned = losses * factors
            added = (poisoned - losses).sum()
            return scored._replace(
                terms=scored.terms | {"mlm": term._replace(sum=term.sum + added)},
                rows=torch.stack([poisoned, scored.rows[1]]),
                sums=scored.sums | {"loss": poisoned.double().sum()},
            )

        before = fingerprint(runner.engine)
        with mock.patch.object(PretrainingModule, "forward", forward_poisoned):
            outcome = run(runner, step, *arguments)
        assert (outcome.fault is not None) == math.isnan(poison.factor), outcome
        assert (fingerprint(runner.engine) == before) == math.isnan(poison.factor), f"step {step + 1}"
        return outcome

    StepRunner.run = run_poisoned  # type: ignore[method-assign]


def fingerprint(engine: Any) -> dict[str, str]:
    """Hash of every tensor of weights and optimizer that this process holds."""
    weights = {name: getattr(p, "ds_tensor", p) for name, p in engine.module.named_parameters()}
    found = {**weights, **dict(tensors_of(engine.optimizer.state_dict(), "optimizer"))}
    return {
        name: hashlib.sha256(tensor.detach().float().numpy().tobytes()).hexdigest()
        for name, tensor in found.items()
    }


def tensors_of(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors_of(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            yield from tensors_of(item, f"{name}.{key}")


if __name__ == "__main__":
    _, spec, processes, *arguments = sys.argv
    if processes == "1" or "RANK" in os.environ:
        put_in(Poison(**json.loads(spec)))
        sys.exit(main(["train", *arguments]))
    sys.exit(launch.launch([sys.executable, "-m", "tests.e2e.poison", *sys.argv[1:]], int(processes)))
