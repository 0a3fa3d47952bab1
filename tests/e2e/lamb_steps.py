"""Compare each LAMB step of an engine with the paper's: python -m tests.e2e.lamb_steps N STAGE PRECISION.

N processes train a small model whose parameters are cut at odd places. The reference gets the gradients that
the engine has, so what differs is the optimizer's doing. An AssertionError ends the process that finds a
difference. The launcher starts its copies of this module's command line.
"""

import itertools
import os
import sys
from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

from pipeline.config.deepspeed_json import read_template, resolve, zero_stage
from pipeline.config.schema import Recipe
from pipeline.engine import start_engine
from pipeline.processes import launch
from pipeline.processes.cluster import Cluster
from tests.pipeline.optimizers.reference_lamb import ReferenceLamb

NUM_STEPS, ROWS = 20, 4


def make_module() -> torch.nn.Module:
    """Matrices of many sizes, one that is all zeros, and biases."""
    torch.manual_seed(0)
    sizes = [11, 5, 23, 3, 7]
    layers = [torch.nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    torch.nn.init.zeros_(layers[1].weight)
    between = [layer for pair in zip(layers, (torch.nn.GELU() for _ in layers)) for layer in pair]
    return torch.nn.Sequential(torch.nn.Embedding(13, 11), torch.nn.LayerNorm(11), *between)


def make_recipe(template: str, precision: str) -> Recipe:
    optimizer = {"kind": "lamb", "weight_decay": 0.1, "gradient_clipping": 0.5}
    train = {"global_batch_size": ROWS, "micro_batch_size": 1, "precision": precision, "deepspeed": template}
    return Recipe.model_validate({"run_dir": "", "corpus": "", "optimizer": optimizer, "train": train})


def compare_steps(cluster: Cluster, template: str, precision: str) -> None:
    recipe = make_recipe(template, precision)
    config = resolve(recipe, read_template(template)[0], cluster.world_size)
    module = make_module()
    section = recipe.optimizer
    engine = start_engine(module, recipe, config)  # type: ignore[arg-type]
    parameters = list(module.parameters())
    is_whole = zero_stage(config) == 0

    def read(parameter: Any) -> torch.Tensor:
        return (parameter if is_whole else safe_get_full_fp32_param(parameter)).detach().clone()

    def gradient_of(parameter: Any) -> torch.Tensor:
        return (parameter.grad if is_whole else safe_get_full_grad(parameter)).float().clone()

    reference = ReferenceLamb(
        [read(parameter) for parameter in parameters],
        betas=section.betas,
        eps=section.eps,
        decay=section.weight_decay,
    )
    share = ROWS // cluster.world_size
    generator = torch.Generator().manual_seed(1)
    for step in range(NUM_STEPS):
        rows = torch.randint(0, 13, (ROWS, 1), generator=generator)
        targets = torch.randn(ROWS, 1, 7, generator=generator)
        rate = 0.01 * (step + 1) / NUM_STEPS
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        for row in range(cluster.rank * share, (cluster.rank + 1) * share):
            output = engine(rows[row : row + 1])
            engine.backward(100.0 * ((output.float() - targets[row : row + 1]) ** 2).mean())
            if engine.is_gradient_accumulation_boundary():
                gradients = [gradient_of(parameter) for parameter in parameters]
            engine.step()
        reference.step(gradients, rate, section.gradient_clipping)
        for parameter, expected in zip(parameters, reference.weights):
            torch.testing.assert_close(read(parameter), expected.float(), rtol=2e-5, atol=1e-7)


if __name__ == "__main__":
    _, processes, *arguments = sys.argv
    if processes == "1" or "RANK" in os.environ:
        cluster = Cluster.from_environment()
        cluster.start()
        compare_steps(cluster, *arguments)
        cluster.stop()
    else:
        sys.exit(launch.launch([sys.executable, "-m", "tests.e2e.lamb_steps", *sys.argv[1:]], int(processes)))
