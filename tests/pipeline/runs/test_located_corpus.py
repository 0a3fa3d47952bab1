"""Where a run's corpora are found after the run or the user has moved, and what is told if they are not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.format import read_manifest
from pipeline.config.load import parse_recipe
from pipeline.config.schema import Recipe
from pipeline.errors import DataError, UsageError
from pipeline.runs.located_corpus import Origin, read_located_recipe
from pipeline.runs.run_dir import RunDir, describe_environment


@pytest.fixture
def project(tmp_path: Path, tiny_corpus: Path, short_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with corpora/mine (the tiny one) and corpora/other, which is the current one."""
    path = tmp_path / "a" / "project"
    shutil.copytree(tiny_corpus, path / "corpora" / "mine")
    shutil.copytree(short_corpus, path / "corpora" / "other")
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def start_run(project: Path, tiny_recipe: Callable[..., dict[str, Any]]) -> Callable[..., RunDir]:
    """`start_run({...})`: runs/x of the project, as its first start leaves it, with relative paths."""

    def start(settings: dict[str, Any] | None = None) -> RunDir:
        paths = {"run_dir": "runs/x", "corpus": "corpora/mine"}
        recipe, _ = parse_recipe(tiny_recipe({**paths, **(settings or {})}))
        assert recipe is not None
        run = RunDir(recipe.run_dir)
        run.create(recipe, describe_environment(recipe, {}, 1))
        return RunDir(project / "runs" / "x")

    return start


def forget(run: RunDir, *keys: str) -> None:
    """Make it a run of an older version."""
    environment = run.read_environment()
    for key in keys:
        del environment[key]
    run.environment_file.write_text(json.dumps(environment), encoding="utf-8")


def corpus_of(recipe: Recipe) -> Path:
    return Path(recipe.corpus).absolute()


def test_from_the_directory_it_was_started_in_the_recipe_is_as_written(start_run) -> None:
    run = start_run()

    assert read_located_recipe(run) == run.read_recipe()


def test_from_another_directory(start_run, project, tmp_path, monkeypatch) -> None:
    run = start_run()
    monkeypatch.chdir(tmp_path)

    assert corpus_of(read_located_recipe(run)) == project / "corpora" / "mine"


def test_a_run_copied_elsewhere_finds_the_corpus_where_it_was(
    start_run, project, tmp_path, monkeypatch
) -> None:
    shutil.copytree(start_run().path, tmp_path / "copied")
    monkeypatch.chdir(tmp_path)

    assert corpus_of(read_located_recipe(RunDir("copied"))) == project / "corpora" / "mine"


@pytest.mark.parametrize("forgotten", [(), ("started_in",), ("started_in", "corpus_sha256")])
@pytest.mark.parametrize("name", ["x", "renamed"])
def test_a_run_moved_with_its_project(start_run, project, tmp_path, monkeypatch, name, forgotten) -> None:
    """Also one of an older version: the way from the run to the corpus is in its recipe."""
    forget(start_run(), *forgotten)
    moved = tmp_path / "b" / "moved"
    monkeypatch.chdir(tmp_path)
    shutil.move(project, moved)
    (moved / "runs" / "x").rename(moved / "runs" / name)

    assert corpus_of(read_located_recipe(RunDir(moved / "runs" / name))) == moved / "corpora" / "mine"


def test_absolute_paths_of_a_moved_project(start_run, project, tmp_path, monkeypatch) -> None:
    start_run({"corpus": str(project / "corpora" / "mine")})
    monkeypatch.chdir(tmp_path)
    shutil.move(project, tmp_path / "moved")

    found = read_located_recipe(RunDir(tmp_path / "moved" / "runs" / "x"))

    assert corpus_of(found) == tmp_path / "moved" / "corpora" / "mine"


def test_another_corpus_of_the_same_name_is_passed_over(start_run, project, tmp_path, monkeypatch) -> None:
    run = start_run()
    shutil.copytree(project / "corpora" / "other", tmp_path / "corpora" / "mine")
    monkeypatch.chdir(tmp_path)

    assert corpus_of(read_located_recipe(run)) == project / "corpora" / "mine"


def test_corpora_of_phases_and_the_first_checkpoint_are_found_too(
    start_run, project, tmp_path, monkeypatch
) -> None:
    (project / "begun").mkdir()
    (project / "begun" / "config.json").write_text("{}", encoding="utf-8")
    phases = [{"until": 2, "corpus": "corpora/other"}, {"until": 4, "global_batch_size": 4}]
    start_run({"curriculum": phases, "model": {"checkpoint": "begun"}})
    monkeypatch.chdir(tmp_path)
    moved = tmp_path / "moved"
    shutil.move(project, moved)

    found = read_located_recipe(RunDir(moved / "runs" / "x"))

    assert [Path(phase.corpus) for phase in found.phases] == [
        *(moved / "corpora" / name for name in ("other", "mine", "mine"))
    ]
    assert [section.corpus is None for section in found.curriculum] == [False, True]
    assert found.model.checkpoint == str(moved / "begun")
    assert found.model.settings_beside_checkpoint() == []


def test_every_place_is_named_with_its_reason(start_run, project, tmp_path, monkeypatch) -> None:
    shutil.copytree(start_run().path, tmp_path / "here" / "runs" / "x")
    shutil.rmtree(project / "corpora" / "mine")
    (tmp_path / "here" / "corpora" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(project / "corpora" / "other", tmp_path / "corpora" / "mine")
    wanted = RunDir("here/runs/x").read_environment()["corpus_sha256"]
    other = read_manifest(Path("corpora/mine")).content_sha256()

    with pytest.raises(DataError) as caught:
        read_located_recipe(RunDir("here/runs/x"))

    first, *places, last = str(caught.value).splitlines()
    assert first == "the corpus corpora/mine of here/runs/x is in none of the places where it could be:"
    assert places[0] == (
        f"  - corpora/mine holds another corpus (content {other[:12]}, the run was trained on {wanted[:12]})"
    )
    assert places[1] == f"  - {project / 'corpora' / 'mine'} does not exist"
    assert places[2].startswith(f"  - {tmp_path / 'here' / 'corpora' / 'mine'} is no corpus (")
    assert len(places) == 3
    assert last == "write --corpus DIRECTORY with the place where it is now"


# --corpus


def test_a_corpus_that_is_given_is_taken(start_run, project, tmp_path) -> None:
    run = start_run()
    (project / "corpora" / "mine").rename(tmp_path / "elsewhere")

    assert corpus_of(read_located_recipe(run, [str(tmp_path / "elsewhere")])) == tmp_path / "elsewhere"


def test_several_that_are_given_are_told_apart_by_content(start_run, project, tmp_path) -> None:
    run = start_run({"curriculum": [{"until": 2, "corpus": "corpora/other"}]})
    (project / "corpora").rename(tmp_path / "elsewhere")

    found = read_located_recipe(run, [str(tmp_path / "elsewhere" / name) for name in ("mine", "other")])

    assert [Path(phase.corpus).name for phase in found.phases] == ["other", "mine"]


@pytest.mark.parametrize(
    ("given", "told"), [("corpora/other", "it holds another corpus"), ("nowhere", "it does not exist")]
)
def test_one_that_is_not_the_runs_is_refused_though_the_right_one_is_there(start_run, given, told) -> None:
    with pytest.raises(UsageError, match=rf"--corpus {given}: {told}"):
        read_located_recipe(start_run(), [given])


def test_without_a_record_only_what_is_sure_is_tried() -> None:
    assert Origin(Path("/b/x"), "runs/x", None).places_of("/data/c") == ["/data/c"]
    assert Origin(Path("/b/runs/x"), "runs/x", None).places_of("c") == ["c", "/b/c"]
    assert Origin(Path("/b/runs/x"), "runs/x", "/a").places_of("/a/c") == ["/a/c", "/b/c"]
