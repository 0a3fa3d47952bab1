"""The `study` command: check every cell, train what is missing, write what all of it comes to."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from data_prep.errors import EXIT_DONE
from data_prep.files import write_json_atomically
from data_prep.format import read_manifest
from pipeline.build import Corpus
from pipeline.config.checks import World, load_checked_recipe
from pipeline.config.schema import Recipe
from pipeline.errors import EXIT_STOPPED, UsageError, UserError
from pipeline.evaluation.baseline import SAMPLE_ROWS, held_out_baseline
from pipeline.runs.run_dir import RunDir, describe_machine, recipe_differences
from pipeline.study.curves import read_curve
from pipeline.study.grid import Grid
from pipeline.study.measure import HELD_OUT_LOSS, Measure
from pipeline.study.runs import Outcome, StudyRun, run_all
from pipeline.study.table import render_study
from pipeline.study.task_score import score_run
from pipeline.study.write import write_study

logger = logging.getLogger(__name__)


class StudyError(UserError):
    """Runs of a study that failed; the message names them."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is to be run and how.

    Attributes:
        recipe: as for `train`.
        overrides: KEY=VALUE for all runs.
        grid: cells and seeds.
        directory: where all of it lies.
        processes: of each run; None for one without a launcher.
        parallel: runs at a time.
        measure: what runs are compared by.
    """

    recipe: str
    overrides: tuple[str, ...]
    grid: Grid
    directory: Path
    processes: int | None = None
    parallel: int = 1
    measure: Measure = HELD_OUT_LOSS

    def runs(self) -> list[StudyRun]:
        """All runs, seed by seed: what can be compared is there early."""
        directory = self.directory / "runs"
        return [
            StudyRun(cell, seed, directory / cell.name / f"seed-{seed}")
            for seed in self.grid.seeds
            for cell in self.grid.cells()
        ]

    def recipe_of(self, run: StudyRun) -> Recipe:
        """The checked recipe of a run; a RecipeError lists what is wrong with it."""
        world = World(world_size=self.processes or 1, on_cuda=torch.cuda.is_available())
        return load_checked_recipe(self.recipe, [*self.overrides, *run.overrides()], world)


def carry_out(study: Study, *, train: bool = True) -> int:
    """Train what is missing and write the results, unless it is stopped; returns the exit code.

    Args:
        study: what to do.
        train: False writes the results of what has been trained so far.
    """
    recipes = {run: study.recipe_of(run) for run in study.runs()}
    _check_comparable(study.measure, list(recipes.values()))
    for run, recipe in recipes.items():
        _check_same_recipe(run, recipe)
        read_curve(run.path, study.measure)  # before hours of training, whether runs have the figure
    study.directory.mkdir(parents=True, exist_ok=True)
    _write_definition(study, {recipe.corpus for recipe in recipes.values()})
    missing = [run for run in recipes if not run.is_over()] if train else []
    outcomes = run_all(
        _in_own_order(missing),
        study.recipe,
        study.overrides,
        processes=study.processes,
        parallel=study.parallel,
    )
    stopped = Outcome.STOPPED in outcomes.values()
    if not stopped and any(RunDir(run.path).metrics_file.is_file() for run in recipes):
        corpora = {run.path: (recipe.corpus,) for run, recipe in recipes.items()}

        def score_of(path: Path, last_step: int) -> float | None:
            return score_run(path, last_step, study.measure, corpora[path])

        results = write_study(
            study.directory,
            study.grid,
            _unigram_loss(list(recipes.values())) if study.measure.is_loss else None,
            study.measure,
            None if study.measure.task is None else score_of,
        )
        print(
            f"{render_study(results)}\nwrote {study.directory / 'study_results.json'}, table.md and figures"
        )
    if failed := [name for name, outcome in outcomes.items() if outcome is Outcome.FAILED]:
        error = StudyError(
            f"{len(failed)} of {len(missing)} runs failed; what they said is in train.log of their "
            f"directories in {study.directory / 'runs'}: {'; '.join(failed)}"
        )
        if not stopped:
            raise error
        logger.error("%s", error)
    return EXIT_STOPPED if stopped else EXIT_DONE


def _check_comparable(measure: Measure, recipes: Sequence[Recipe]) -> None:
    """Figures of held-out evaluations have the same name in several objectives, not the same meaning."""
    kinds = sorted({recipe.objective.kind for recipe in recipes})
    if len(kinds) > 1 and measure.task is None:
        raise UsageError(
            f"--compare-by {measure.figure}: the runs have the objectives {' and '.join(kinds)}, whose "
            "held-out figures cannot be compared; compare them by a task, for example --compare-by accuracy "
            "task=blimp data=PATH"
        )


def _in_own_order(runs: list[StudyRun]) -> list[StudyRun]:
    """Jobs of an array begin at different runs, so that they do not all reach for the same."""
    task, last = (int(os.environ.get(f"SLURM_ARRAY_TASK_{name}", 0)) for name in ("ID", "MAX"))
    first = task * len(runs) // (last + 1)
    return runs[first:] + runs[:first]


def _check_same_recipe(run: StudyRun, recipe: Recipe) -> None:
    """A directory made with another recipe would be compared with runs it cannot be compared with."""
    directory = RunDir(run.path)
    if not directory.holds_run():
        return
    old = directory.read_recipe()
    differences = recipe_differences(old, recipe)
    # What `train` may change on the way, or has not changed if the corpus only lies elsewhere.
    rows = [recipe.evaluation.max_rows for recipe in (old, recipe)]
    trained = directory.read_environment().get("corpus_sha256")
    content = read_manifest(Path(recipe.corpus)).content_sha256()
    if trained is not None and trained != content:
        differences.append(("corpus (its content)", trained[:12], content[:12]))
    if rows[0] != rows[1]:
        differences.append(("evaluation.max_rows", rows[0], rows[1]))
    if differences:
        key, before, after = differences[0]
        raise UsageError(
            f"{run.path} was trained with another recipe: {key} was {before!r} and would be {after!r}; name "
            "another directory with --out"
        )


def _write_definition(study: Study, corpora: set[str]) -> None:
    write_json_atomically(
        study.directory / "study.json",
        {
            "recipe": study.recipe,
            "overrides": list(study.overrides),
            "axes": [
                {"name": axis.name, "labels": axis.labels, "settings": axis.settings}
                for axis in study.grid.axes
            ],
            "seeds": study.grid.seeds,
            "measure": asdict(study.measure),
            "corpora": {path: read_manifest(Path(path)).content_sha256() for path in sorted(corpora)},
            "machine": describe_machine(),
        },
    )


def _unigram_loss(recipes: Sequence[Recipe]) -> float | None:
    """Of the held-out rows, where all runs have the same; from the whole corpus, if some train on a share."""
    evaluated = {
        (recipe.corpus, recipe.objective.model_dump_json(), recipe.evaluation.max_rows) for recipe in recipes
    }
    if len(evaluated) > 1:
        return None
    recipe = recipes[0]
    whole = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train_share": 1.0})})
    corpus, max_rows = Corpus.open(recipe.corpus), recipe.evaluation.max_rows
    return held_out_baseline(whole, corpus, max_rows, SAMPLE_ROWS).get("loss")
