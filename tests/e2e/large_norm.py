"""Compare a step of a very large parameter with float64: python -m tests.e2e.large_norm N STAGE OPTIMIZER.

N processes take one clipped step of a model whose one matrix has 40 million values, enough for a sum of
squares in float32 to lose 0.3 %. The gradient is an input of the model, so that it is known exactly. An
AssertionError ends the process that finds a difference of more than 1e-6. The launcher starts its copies of
this module's command line.
"""

import os
import sys

import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param

from pipeline.config.deepspeed_json import read_template, resolve, zero_stage
from pipeline.config.schema import OptimizerSection, Recipe
from pipeline.engine import start_engine
from pipeline.processes import launch
from pipeline.processes.cluster import Cluster

SHAPE = (5_000, 8_000)
RATE = 0.5
# An epsilon of the size of the clipped gradient's values: without it Adam's first update would be their
# signs, however they are clipped.
OPTIMIZER = {"betas": [0.5, 0.5], "eps": 1e-4, "weight_decay": 0.0, "gradient_clipping": 1.0}


class Product(torch.nn.Module):
    """The sum of a matrix times its input, whose gradient is that input."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(
            0.02 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
        )

    def forward(self, factors: torch.Tensor) -> torch.Tensor:
        return (self.matrix * factors).sum()


def make_recipe(template: str, kind: str, num_processes: int) -> Recipe:
    train = {"global_batch_size": num_processes, "precision": "fp32", "deepspeed": template}
    train["micro_batch_size"] = 1
    optimizer = {"kind": kind, "learning_rate": RATE, **OPTIMIZER}
    return Recipe.model_validate({"run_dir": "", "corpus": "", "optimizer": optimizer, "train": train})


def expected_step(
    weights: torch.Tensor, gradient: torch.Tensor, section: OptimizerSection
) -> tuple[float, torch.Tensor]:
    """The gradient's norm and the first update, in float64, of AdamW without decay or LAMB."""
    gradient = gradient.double()
    norm = gradient.norm().item()
    gradient *= min(1.0, section.gradient_clipping / norm)
    update = gradient / (gradient.abs() + section.eps)
    if section.kind == "lamb":
        update *= weights.double().norm() / update.norm()
    return norm, update.mul_(-section.learning_rate)


def compare_step(cluster: Cluster, template: str, kind: str) -> None:
    recipe = make_recipe(template, kind, cluster.world_size)
    config = resolve(recipe, read_template(template)[0], cluster.world_size)
    module = Product()
    before = module.matrix.detach().clone()
    factors = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    engine = start_engine(module, recipe, config)  # type: ignore[arg-type]
    engine.backward(engine(factors))
    engine.step()

    norm, update = expected_step(before, factors, recipe.optimizer)
    is_whole = zero_stage(config) == 0
    after = module.matrix.detach() if is_whole else safe_get_full_fp32_param(module.matrix)
    assert float(engine.get_global_grad_norm()) == pytest.approx(norm, rel=1e-6)
    difference = (after.double() - before) - update
    assert (difference.norm() / update.norm()).item() < 1e-6


if __name__ == "__main__":
    _, processes, *arguments = sys.argv
    if processes == "1" or "RANK" in os.environ:
        cluster = Cluster.from_environment()
        cluster.start()
        compare_step(cluster, *arguments)
        cluster.stop()
    else:
        sys.exit(launch.launch([sys.executable, "-m", "tests.e2e.large_norm", *sys.argv[1:]], int(processes)))
