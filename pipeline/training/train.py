"""The `train` command in one process: agree on a start, build everything, train."""

import logging
import platform
from dataclasses import dataclass, field

import torch.distributed as dist

from pipeline.config.checks import World, load_checked_recipe
from pipeline.config.deepspeed_json import read_template, resolve, zero_stage
from pipeline.config.guidance_checks import warn_of_guidance
from pipeline.config.schema import Recipe
from pipeline.errors import EXIT_LOST, LostProcessError, UsageError, exit_code_of
from pipeline.processes.cluster import Cluster
from pipeline.processes.signs_of_life import Verdict
from pipeline.processes.stop import StopRequest
from pipeline.processes.watch import Watch, is_lost_connection, is_machine_fault
from pipeline.runs.run_dir import RunDir, describe_environment
from pipeline.runs.start import Start, StartOptions, choose_start
from pipeline.training.assembly import assemble
from pipeline.training.trainer import Surroundings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What the command line says beside the recipe.

    Attributes:
        start: about starting.
        stop_at: save and stop after this step.
        stop_signal: one more signal that means: save and stop.
        profile_steps: how many steps are profiled.
    """

    start: StartOptions = field(default_factory=StartOptions)
    stop_at: int | None = None
    stop_signal: str | None = None
    profile_steps: int | None = None


def train(recipe_name: str, overrides: list[str], options: TrainOptions, cluster: Cluster) -> bool:
    """Run a recipe, from scratch or from where it was; True when it is done, False when it was stopped."""
    stop = StopRequest()
    stop.listen(options.stop_signal)
    try:
        cluster.start()
        world = World(world_size=cluster.world_size, on_cuda=cluster.device.type == "cuda")
        recipe = cluster.on_main(lambda: _load_recipe(recipe_name, overrides, world))
        run = RunDir(recipe.run_dir)
        watch = _make_watch(recipe, run, cluster, stop)
        watch.start()
    except dist.DistError as error:
        raise LostProcessError(f"the processes did not find each other: {error}") from error
    try:
        done = _train(Surroundings(recipe, run, cluster, watch), options, stop)
        cluster.gather(None)  # nobody leaves while another still needs it
    except Exception as error:
        if cluster.world_size > 1 and is_lost_connection(error):
            raise watch.await_verdict(error) from error
        if is_machine_fault(error):
            watch.fail(EXIT_LOST)
            raise LostProcessError(f"rank {cluster.rank} on {platform.node()}: {error}") from error
        if not getattr(error, "is_told_to_all", False):
            watch.fail(exit_code_of(error))
        raise
    finally:
        watch.stop()
        run.lock.release()
    return done


def _train(around: Surroundings, options: TrainOptions, stop: StopRequest) -> bool:
    recipe, run, cluster, stop_at = around.recipe, around.run, around.cluster, options.stop_at
    template, _ = read_template(recipe.train.deepspeed)
    deepspeed_config = resolve(recipe, template, cluster.world_size)

    def decide() -> Start:
        run.lock.acquire()
        environment = describe_environment(recipe, deepspeed_config, cluster.world_size)
        return choose_start(run, recipe, options.start, environment, zero_stage(template))

    start = cluster.on_main(decide)
    if stop_at is not None and start.step >= stop_at:
        raise UsageError(f"--stop-at {stop_at}: the run is at step {start.step} already; write a later step")
    if start.step >= recipe.train.num_steps:
        cluster.on_main(lambda: _note_done(run, start.step))
        logger.info("%s is done: %d of %d steps", run.path, start.step, recipe.train.num_steps)
        return True
    trainer = assemble(around, deepspeed_config, start, options.profile_steps)
    try:
        return trainer.run_steps(stop, stop_at)
    finally:
        trainer.close()


def _load_recipe(name: str, overrides: list[str], world: World) -> Recipe:
    """On the main process, so that a warning is told once."""
    recipe = load_checked_recipe(name, overrides, world)
    if (warning := warn_of_guidance(recipe)) is not None:
        logger.warning(warning)
    return recipe


def _note_done(run: RunDir, step: int) -> None:
    """A run killed between its last checkpoint and this event is done all the same."""
    if not any(event["event"] == "done" for event in run.read_events()):
        run.add_event("done", step=step)


def _make_watch(recipe: Recipe, run: RunDir, cluster: Cluster, stop: StopRequest) -> Watch:
    def tell(verdict: Verdict) -> None:
        run.add_event("lost process", ranks=verdict.ranks, reason=verdict.message)

    chores = [stop.ask_if_launcher_is_gone]
    if cluster.is_main:
        chores.append(run.lock.beat)
    return Watch(
        cluster,
        silence_seconds=recipe.recovery.silence_seconds,
        hang_seconds=recipe.recovery.hang_seconds,
        on_lost=tell,
        chores=chores,
    )
