"""Where a run begins: from scratch, or at the newest checkpoint that proves to be whole."""

import logging
import time
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.loading import Source, prepare
from pipeline.checkpoints.manifest import (
    delete_leftovers,
    list_checkpoints,
    newest_usable,
    set_aside,
    step_of,
)
from pipeline.config.schema import Recipe
from pipeline.errors import CheckpointError, RecipeError, UsageError
from pipeline.runs.run_dir import RunDir, recipe_differences

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Number of steps already trained, and the checkpoint they are in; None for a run from scratch."""

    step: int
    source: Source | None


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """What the command line says about starting.

    Attributes:
        fresh: refuse a directory that holds a run.
        must_resume: refuse to begin at step 0.
        accept_changes: resume although the recipe differs from the run's.
    """

    fresh: bool = False
    must_resume: bool = False
    accept_changes: bool = False


def choose_start(
    run: RunDir, recipe: Recipe, options: StartOptions, environment: dict[str, Any], zero_stage: int
) -> Start:
    """Decide, and write the first files or events. Runs on the main process only.

    Raises:
        UsageError: `--fresh` on a directory that holds a run; a ZeRO stage there is no way to.
        RecipeError: the recipe is not the one the run was started with.
        CheckpointError: there should be a checkpoint to resume from, but none is usable.
    """
    if not run.holds_run():
        if list_checkpoints(run.checkpoints):
            raise CheckpointError(
                f"{run.path} has checkpoints but no recipe.yaml; restore it, or train into another run_dir"
            )
        if options.must_resume:
            raise CheckpointError(f"--resume required: {run.path} holds no run; start it without the option")
        run.create(recipe, environment)
        run.add_event("start", world_size=environment["world_size"])
        return Start(0, None)
    if options.fresh:
        raise UsageError(
            f"--fresh: {run.path} holds a run; choose another run_dir, or resume it without --fresh"
        )
    delete_leftovers(run.checkpoints)
    _compare_corpora(run, environment)
    changes = _recipe_changes(run, recipe, environment, options.accept_changes)
    start = _resume(run, options, environment["world_size"], zero_stage)
    if changes:
        run.add_event("recipe changed", changes=changes)
        run.replace_recipe(recipe, environment.get("curriculum_sha256", []))
    return start


def _compare_corpora(run: RunDir, environment: dict[str, Any]) -> None:
    """Rows of another corpus have other numbers: some would be seen twice and others never."""
    before, now = run.read_environment().get("corpus_sha256"), environment.get("corpus_sha256")
    if before is not None and before != now:
        raise RecipeError(
            f"corpus: its rows are not those {run.path} was started with (content {str(now)[:12]}, "
            f"the run has {str(before)[:12]}); put the original back or choose another run_dir"
        )


def _recipe_changes(run: RunDir, recipe: Recipe, environment: dict[str, Any], accepted: bool) -> list[str]:
    differences = recipe_differences(run.read_recipe(), recipe) + _changed_phase_corpora(run, environment)
    listed = [f"{key}: {new!r}, the run was started with {old!r}" for key, old, new in differences]
    if listed and not accepted:
        raise RecipeError(
            f"the recipe is not the one {run.path} was started with:\n"
            + "".join(f"  - {line}\n" for line in listed)
            + "take the values back, choose another run_dir, or go on with the new ones by --accept-changes"
        )
    return listed


def _changed_phase_corpora(run: RunDir, environment: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Like recipe_differences: corpora of the curriculum's phases that have another content than before."""
    before = run.read_environment().get("curriculum_sha256", [])
    pairs = zip(before, environment.get("curriculum_sha256", []))
    return [
        (f"curriculum.{index}.corpus", f"content {old[:12]}", f"content {new[:12]}")
        for index, (old, new) in enumerate(pairs)
        if old != new
    ]


def _resume(run: RunDir, options: StartOptions, world_size: int, zero_stage: int) -> Start:
    source = find_source(run, world_size, zero_stage)
    if source is None:
        published = [event["step"] for event in run.read_events() if event["event"] == "checkpoint"]
        if published:
            raise CheckpointError(
                f"{run.checkpoints} is empty, but the run had published step {max(published)}; "
                "restore the checkpoints, or train into another run_dir"
            )
        if options.must_resume:
            raise CheckpointError(f"--resume required: {run.path} has no checkpoint yet")
        logger.warning("%s was started but has no checkpoint yet: starting at step 0", run.path)
        run.add_event("start", world_size=world_size)
        return Start(0, None)
    run.add_event("resume", step=source.step, world_size=world_size)
    logger.info("resuming %s at step %d", run.path, source.step)
    return Start(source.step, source)


def find_source(run: RunDir, world_size: int, zero_stage: int) -> Source | None:
    """The newest usable checkpoint, loadable by such a run; None if there are none.

    Runs on the main process only. Damaged ones that are newer are kept under another name and told.

    Raises:
        UsageError: there is no way from the checkpoint's ZeRO stage to this one.
        CheckpointError: there are checkpoints, but none is usable.
    """
    path, damaged = newest_usable(run.checkpoints)
    if path is None:
        return None
    for damage in damaged:
        aside = set_aside(damage)
        logger.warning("damaged checkpoint skipped, kept as %s\n  %s", aside, damage)
        run.add_event(
            "corrupt checkpoint", step=step_of(damage.path), kept_as=aside.name, reasons=damage.reasons
        )
    started = time.monotonic()
    source = prepare(path, world_size, zero_stage)
    if source.converted is not None:
        seconds = round(time.monotonic() - started, 3)
        run.add_event("converted", step=source.step, from_world_size=source.world_size, seconds=seconds)
    return source
