"""A small grid of real trainings: interrupted, shared by two processes, summed up."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.runs.run_dir import RunDir
from pipeline.study import runs
from pipeline.study.grid import Cell
from pipeline.study.runs import Outcome, StudyRun, run_all
from tests.e2e.running import (
    last_evaluation,
    losses,
    overrides,
    read_metrics,
    run_command,
    start_command,
    train,
)

GRID = ["--vary", "guidance.weight=0,7", "--seeds", "2"]


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    return recipe_file(train={"num_steps": 8}, evaluation={"every_steps": 2}, checkpoint={"every_steps": 2})


def command(recipe: Path, out: Path, *arguments: str) -> list[str]:
    return ["study", str(recipe), "--out", str(out), *GRID, *overrides(run_dir="unused"), *arguments]


def study(recipe: Path, out: Path, *arguments: str) -> int:
    return main(command(recipe, out, *arguments))


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    """A study that was stopped while it trained and finished by two processes at once."""
    out = tmp_path_factory.mktemp("study") / "out"
    whole = [sys.executable, "-m", "pipeline", *command(recipe, out)]
    running = start_command(whole)
    deadline = time.monotonic() + 120
    while not any((path / "checkpoints" / "latest").exists() for path in run_dirs(out)):
        assert running.is_running, running.output
        assert time.monotonic() < deadline, running.output
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.code == 75, stopped.output
    assert not (out / "study_results.json").exists()

    for one in [start_command(whole), start_command(whole)]:
        ended = one.wait()
        assert ended.code == 0, ended.output
        assert "wrote" in ended.output
    # The one that ended first may have written results without the other's last run.
    assert main(command(recipe, out, "--only-results")) == 0
    return out


def run_dirs(out: Path) -> list[Path]:
    return sorted((out / "runs").glob("*/seed-*"))


@pytest.mark.slow
def test_every_cell_runs_with_every_seed_and_seeds_are_paired(finished):
    assert [f"{path.parent.name}/{path.name}" for path in run_dirs(finished)] == [
        "weight=0/seed-1",
        "weight=0/seed-2",
        "weight=7/seed-1",
        "weight=7/seed-2",
    ]
    first, other, guided, _ = (read_metrics(path) for path in run_dirs(finished))
    assert first[0]["rows_digest"] == guided[0]["rows_digest"] != other[0]["rows_digest"]
    assert all(line["guidance_loss"] == 0 for line in first)
    assert all(line["guidance_loss"] > 0 for line in guided[:-1])


@pytest.mark.slow
def test_results_are_those_of_the_runs(finished):
    results = json.loads((finished / "study_results.json").read_text())
    finals = {
        (cell["labels"][0], run["seed"]): run["final_value"]
        for cell in results["cells"]
        for run in cell["runs"]
    }
    assert finals == {
        (path.parent.name.removeprefix("weight="), int(path.name.removeprefix("seed-"))): read_metrics(
            path, "valid"
        )[-1]["loss"]
        for path in run_dirs(finished)
    }
    (difference,) = (cell["difference"] for cell in results["cells"] if cell["difference"])
    mean = sum(finals["7", seed] - finals["0", seed] for seed in (1, 2)) / 2
    assert difference["mean"] == pytest.approx(mean)
    assert 3.0 < results["unigram_loss"] < 7.0
    definition = json.loads((finished / "study.json").read_text())
    assert definition["seeds"] == [1, 2]
    assert definition["axes"][0]["labels"] == ["0", "7"]
    assert (finished / "table.md").stat().st_size > 0
    assert len(list(finished.glob("*.png"))) >= 2


@pytest.mark.slow
def test_a_finished_study_trains_nothing_again(finished, recipe, capsys):
    before = {path: (path / "metrics.jsonl").stat().st_mtime_ns for path in run_dirs(finished)}
    assert study(recipe, finished) == 0
    assert {path: (path / "metrics.jsonl").stat().st_mtime_ns for path in run_dirs(finished)} == before
    assert "study_results.json" in capsys.readouterr().out


@pytest.mark.slow
def test_another_recipe_in_the_same_directory_is_refused(finished, recipe, capsys):
    assert study(recipe, finished, "--set", "optimizer.learning_rate=5e-3") == 64
    told = capsys.readouterr().err
    assert "optimizer.learning_rate was 0.001 and would be 0.005" in told
    assert "--out" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [("corpus={short}", "corpus (its content) was"), ("evaluation.max_rows=8", "evaluation.max_rows was 16")],
)
def test_runs_of_another_corpus_or_other_held_out_rows_are_not_mixed_in(
    change, told, finished, recipe, short_corpus, capsys
):
    assert study(recipe, finished, "--set", change.format(short=short_corpus)) == 64
    assert told in capsys.readouterr().err


def write_pairs(directory: Path) -> Path:
    pairs = [{"sentence_good": f"It {verb}s.", "sentence_bad": f"It {verb}."} for verb in ("work", "run")]
    about = {"linguistics_term": "agreement", "field": "syntax", "UID": "verbs"}
    directory.mkdir()
    (directory / "verbs.jsonl").write_text("".join(json.dumps(pair | about) + "\n" for pair in pairs))
    return directory


@pytest.mark.slow
def test_a_task_decides_and_is_not_measured_again(finished, recipe, tmp_path, capsys):
    by = [
        "--only-results",
        "--compare-by",
        "accuracy",
        "task=blimp",
        f"data={write_pairs(tmp_path / 'blimp')}",
    ]
    table = (finished / "table.md").read_text()
    try:
        assert study(recipe, finished, *by, "limit=1") == 0
        told = capsys.readouterr().out
        assert "Final blimp accuracy (share) and difference from the baseline:" in told
        results = json.loads((finished / "study_results.json").read_text())
        assert (results["measure"]["task"], results["measure"]["better"]) == ("blimp", "higher")
        assert json.loads((finished / "study.json").read_text())["measure"] == results["measure"]
        kept = [last_evaluation(path, "blimp") for path in run_dirs(finished)]
        finals = [run["final_value"] for cell in results["cells"] for run in cell["runs"]]
        assert finals == [entry["numbers"]["accuracy"] for entry in kept]

        files = {path: path / "evaluation" / "blimp.json" for path in run_dirs(finished)}
        units = [json.loads(file.read_text())["evaluations"][-1]["units"] for file in files.values()]
        for file in files.values():  # a mark that would be gone if it were measured again
            content = json.loads(file.read_text())
            content["evaluations"][-1]["units"]["verbs"]["marked"] = True
            file.write_text(json.dumps(content))
        assert study(recipe, finished, *by, "limit=1") == 0
        assert json.loads((finished / "study_results.json").read_text()) == results
        for file, before in zip(files.values(), units, strict=True):
            after = json.loads(file.read_text())["evaluations"][-1]["units"]
            assert after == {"verbs": before["verbs"] | {"marked": True}}

        capsys.readouterr()
        assert study(recipe, finished, "--only-results", "--compare-by", "accurcy", "better=higher") == 64
        assert "did you mean 'accuracy'?" in capsys.readouterr().err
        assert study(recipe, finished, "--only-results", "--compare-by", "accuracy", "at=time") == 0
        assert "Final held-out accuracy (share of predicted tokens)" in (finished / "table.md").read_text()
    finally:
        assert study(recipe, finished, "--only-results") == 0
    assert (finished / "table.md").read_text() == table


@pytest.mark.slow
def test_its_runs_are_compared_on_a_task(finished, tmp_path):
    data = write_pairs(tmp_path / "blimp")
    out = tmp_path / "new" / "blimp.json"
    options = ["--task", "blimp", "--data", str(data), "--out", str(out)]
    ended = run_command([sys.executable, "-m", "benchmarks.downstream", str(finished), *options])
    assert ended.code == 0, ended.output
    baseline, guided = json.loads(out.read_text())["cells"]
    scores = [last_evaluation(path, "blimp")["numbers"]["accuracy"] for path in run_dirs(finished)]
    assert [*baseline["scores"].values(), *guided["scores"].values()] == scores
    assert baseline["difference"] is None
    assert guided["difference"]["num_pairs"] == 2
    assert guided["difference"]["mean"] == pytest.approx(sum(scores[2:]) / 2 - sum(scores[:2]) / 2)


@pytest.mark.slow
def test_every_run_was_begun_once_and_is_that_of_train_alone(finished, recipe, tmp_path):
    starts = [
        [event["event"] for event in RunDir(path).read_events()].count("start") for path in run_dirs(finished)
    ]
    assert starts == [1, 1, 1, 1]
    alone = train(recipe, *overrides(run_dir=tmp_path / "run", seed=2, guidance__weight=7))
    assert alone.code == 0, alone.output
    of_study = finished / "runs" / "weight=7" / "seed-2"
    assert losses(of_study) == losses(tmp_path / "run")


def test_a_wrong_cell_is_told_before_anything_runs(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    wrong = ["study", str(recipe), "--out", str(out), "--vary", "model.num_heads=4,5"]
    assert main([*wrong, *overrides(run_dir="unused")]) == 78
    assert "model.num_heads" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_a_study_all_of_whose_runs_fail_says_so(recipe, tmp_path, capsys):
    """A run directory that cannot be written."""
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    for weight in (0, 7):
        (out / "runs" / f"weight={weight}").mkdir()
        (out / "runs" / f"weight={weight}" / "seed-1").mkdir()
        (out / "runs" / f"weight={weight}" / "seed-1" / "checkpoints").write_text("in the way")
    assert (
        main(["study", str(recipe), "--out", str(out), *GRID[:2], "--seeds", "1", *overrides(run_dir="x")])
        == 70
    )
    told = capsys.readouterr().err
    assert "2 of 2 runs failed" in told
    assert "weight=7, seed 1" in told


@pytest.mark.parametrize(
    ("code", "stopping", "outcome"),
    [
        (0, True, Outcome.DONE),
        (75, False, Outcome.STOPPED),
        (69, False, Outcome.STOPPED),
        (-15, True, Outcome.STOPPED),
        (130, True, Outcome.STOPPED),
        (-9, False, Outcome.FAILED),
        (78, False, Outcome.FAILED),
    ],
)
def test_how_a_run_ended(code, stopping, outcome, tmp_path):
    run = StudyRun(Cell(("a",), {}, "a"), 1, tmp_path)
    assert runs._outcome_of(run, code, stopping=stopping) is outcome


@pytest.mark.slow
def test_a_run_that_fails_keeps_no_other_from_running(recipe, tmp_path):
    def run(name: str, **settings: object) -> StudyRun:
        cell = Cell((name,), {key.replace("__", "."): value for key, value in settings.items()}, name)
        return StudyRun(cell, 1, tmp_path / name)

    both = [run("wrong", model__num_heads=5), run("right", train__num_steps=2)]
    outcomes = run_all(both, str(recipe), [], processes=None, parallel=1)
    assert outcomes == {"wrong, seed 1": Outcome.FAILED, "right, seed 1": Outcome.DONE}
    assert "model.num_heads" in (tmp_path / "wrong" / "train.log").read_text()
    assert both[1].is_over()
    assert not both[0].is_over()
