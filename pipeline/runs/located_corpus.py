"""Where the corpora of a run are now: it may be read from another directory, or have been copied or moved.

A run keeps the paths of its recipe as the user wrote them. For one that is read later each is tried

    as it is written, from the current directory
    as it is written, from the directory that the run was started in
    in the same place relative to the run as it was then, for a run that moved together with its project

and the first that holds the corpus the run was trained on, by the content hash in environment.json, is taken.
A run of an older version has no record of its directory, or of the hash; then the first corpus there is.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.format import read_manifest
from pipeline.config.schema import Recipe
from pipeline.errors import DataError, UsageError
from pipeline.runs.run_dir import RunDir

# What is wrong with a place; None if it holds what is looked for.
Judge = Callable[[str], str | None]


@dataclass(frozen=True)
class Origin:
    """A run as it was started and where it is now.

    Attributes:
        run: its directory now.
        run_dir: its directory as its recipe has it.
        started_in: the directory that this is relative to; None if it was not recorded.
    """

    run: Path
    run_dir: str
    started_in: str | None

    def places_of(self, written: str) -> list[str]:
        """Where a path of the recipe may be now, most likely first, each place once."""
        places = [written]
        if self.started_in is not None:
            places.append(str(Path(self.started_in) / written))
        if self.started_in is not None or Path(written).is_absolute() == Path(self.run_dir).is_absolute():
            before = Path(self.started_in or Path.cwd())
            way = os.path.relpath(before / written, before / self.run_dir)
            places.append(os.path.normpath(self.run.absolute() / way))
        once: dict[str, str] = {}
        for place in places:
            once.setdefault(os.path.normpath(Path(place).absolute()), place)
        return list(once.values())


def read_located_recipe(run: RunDir, given: Sequence[str] = ()) -> Recipe:
    """A run's recipe with its corpora, and the checkpoint it began with, where they are now.

    Args:
        run: a directory that holds a run.
        given: directories that the user says are the run's corpora.

    Raises:
        UsageError: one of `given` is no corpus of the run.
        DataError: something is nowhere; the message has every place that was tried.
    """
    recipe, started_in = run.read_recipe(), run.read_environment().get("started_in")
    origin = Origin(run.path, recipe.run_dir, started_in)
    contents = _contents(run, recipe)
    _refuse_foreign(run, given, contents)
    found = {
        written: _find(
            f"the corpus {written} of {run.path}",
            [*given, *origin.places_of(written)],
            _corpus_judge(content),
            "write --corpus DIRECTORY with the place where it is now",
        )
        for written, content in contents.items()
    }
    sections = [
        section if section.corpus is None else section.model_copy(update={"corpus": found[section.corpus]})
        for section in recipe.curriculum
    ]
    model = recipe.model
    if model.checkpoint is not None:
        what, advice = f"the checkpoint {model.checkpoint} that {run.path} began with", "put it back"
        place = _find(what, origin.places_of(model.checkpoint), _judge_checkpoint, advice)
        model = model.model_copy(update={"checkpoint": place})
    return recipe.model_copy(update={"corpus": found[recipe.corpus], "curriculum": sections, "model": model})


def _contents(run: RunDir, recipe: Recipe) -> dict[str, str | None]:
    """The recorded content hash of every corpus of the run; None where there is none."""
    environment = run.read_environment()
    of_phases = environment.get("curriculum_sha256", [])
    if len(of_phases) != len(recipe.curriculum):
        of_phases = [None] * len(recipe.curriculum)
    hashes = [*of_phases, environment.get("corpus_sha256")]
    return {phase.corpus: content for phase, content in zip(recipe.phases, hashes)}


def _refuse_foreign(run: RunDir, given: Sequence[str], contents: dict[str, str | None]) -> None:
    for place in given:
        reasons = [_corpus_judge(content)(place) for content in contents.values()]
        if None not in reasons:
            raise UsageError(
                f"--corpus {place}: it {reasons[-1]}; name a corpus that {run.path} was trained on"
            )


def _find(what: str, places: Sequence[str], judge: Judge, advice: str) -> str:
    """The first place that is right."""
    reasons = []
    for place in places:
        reason = judge(place)
        if reason is None:
            return place
        reasons.append(f"  - {place} {reason}")
    listed = "\n".join(reasons)
    raise DataError(f"{what} is in none of the places where it could be:\n{listed}\n{advice}")


def _corpus_judge(content: str | None) -> Judge:
    """Judges whether a directory holds the corpus with this content hash, or any where it is not known."""

    def judge(place: str) -> str | None:
        if not Path(place).exists():
            return "does not exist"
        try:
            found = read_manifest(Path(place)).content_sha256()
        except DataError as error:
            return f"is no corpus ({error})"
        if content is not None and found != content:
            return f"holds another corpus (content {found[:12]}, the run was trained on {content[:12]})"
        return None

    return judge


def _judge_checkpoint(place: str) -> str | None:
    return None if (Path(place) / "config.json").is_file() else "has no config.json"
