"""The `train` command in one process: agree on a start, build everything, train."""

import logging

from pipeline.config.checks import World, load_checked_recipe
from pipeline.config.deepspeed_json import read_template, resolve, zero_stage
from pipeline.errors import UsageError
from pipeline.processes.cluster import Cluster
from pipeline.processes.stop import StopRequest
from pipeline.runs.run_dir import RunDir, describe_environment
from pipeline.runs.start import Start, StartOptions, choose_start
from pipeline.training.trainer import Trainer

logger = logging.getLogger(__name__)


def train(
    recipe_name: str, overrides: list[str], options: StartOptions, stop_at: int | None, cluster: Cluster
) -> bool:
    """Run a recipe, from scratch or from where it was; True when it is done, False when it was stopped."""
    stop = StopRequest()
    stop.listen()
    cluster.start()
    world = World(world_size=cluster.world_size, on_cuda=cluster.device.type == "cuda")
    recipe = cluster.on_main(lambda: load_checked_recipe(recipe_name, overrides, world))
    template, _ = read_template(recipe.train.deepspeed)
    deepspeed_config = resolve(recipe, template, cluster.world_size, world.on_cuda)
    run = RunDir(recipe.run_dir)

    def decide() -> Start:
        run.lock()
        environment = describe_environment(recipe, deepspeed_config, cluster.world_size)
        return choose_start(run, recipe, options, environment, zero_stage(template))

    start = cluster.on_main(decide)
    if stop_at is not None and start.step >= stop_at:
        raise UsageError(f"--stop-at {stop_at}: the run is at step {start.step} already; write a later step")
    if start.step >= recipe.train.num_steps:
        logger.info("%s is done: %d of %d steps", run.path, start.step, recipe.train.num_steps)
        return True
    trainer = Trainer(recipe, run, cluster, deepspeed_config, start)
    try:
        return trainer.run_steps(stop, stop_at)
    finally:
        trainer.close()
