"""What real processes send each other is what the plan says; accumulation costs nothing at stages 0 and 1."""

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.communication import count_step
from benchmarks.witness import Account, read_accounts, witness_command
from pipeline.config.checks import World, load_checked_recipe
from pipeline.planning.plan import make_plan
from tests.e2e.running import run_command

NUM_STEPS, LAST = 7, 6


def train_counted(recipe: Path, directory: Path, settings: list[str]) -> list[Account]:
    finished = run_command(witness_command(directory, recipe, 2, settings))
    assert finished.code == 0, finished.output
    return read_accounts(directory, 2)


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    """Without evaluations or saves, after which stage 3 gathers more for a step or two."""
    return recipe_file(
        model={"hidden_size": 32, "num_heads": 2},
        guidance={"heads": {}},
        train={"num_steps": NUM_STEPS, "global_batch_size": 16},
        evaluation={"every_steps": 100},
        checkpoint={"every_steps": 100},
    )


@pytest.mark.parametrize("micro_steps", [1, 4])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_collectives_are_those_of_the_plan(
    recipe: Path, tmp_path: Path, stage: int, micro_steps: int
) -> None:
    settings = [
        f"train.deepspeed=zero{stage}",
        f"train.micro_batch_size={8 // micro_steps}",
        f"run_dir={tmp_path / 'run'}",
    ]
    world = World(world_size=2, on_cuda=False)
    plan = make_plan(load_checked_recipe(str(recipe), settings, world), world)

    ranks = [count_step(rank.of_step(LAST)) for rank in train_counted(recipe, tmp_path, settings)]

    assert ranks[0] == ranks[1]
    volume, small = ranks[0]
    assert asdict(volume) == {key: plan["communication"][key] for key in asdict(volume)}
    gradients = volume.all_reduce + volume.reduce_scatter
    reductions = micro_steps if stage >= 2 else 1
    assert gradients == pytest.approx(reductions * 4 * plan["parameters"], rel=1e-3)
    # One sum of counts and flags of ours, of fewer than ten numbers; DeepSpeed's norms of the two groups.
    assert 0 < small["pipeline: sum"] < 10 * 8
    assert sum(small.values()) < 200
