"""Losses and gradients that are no numbers: skipped, counted, gone back for, given up on; and loss spikes."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.accounting.metrics import MEASURED_FIELDS
from pipeline.build import Corpus
from pipeline.checkpoints.manifest import find_damage, list_checkpoints, step_of
from pipeline.config.load import parse_recipe, read_settings
from pipeline.data.order import rows_of_step
from pipeline.runs.run_dir import RunDir
from tests.e2e.poison import Poison
from tests.e2e.running import Finished, overrides, read_metrics, run_command, train

STAGES = ["zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"]


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    """Eight rows per step; one step per line; a checkpoint every four."""
    return recipe_file(
        train={"num_steps": 10, "micro_batch_size": 2},
        logging={"every_steps": 1},
        evaluation={"every_steps": 100},
        model={"dropout": 0.1},
    )


def rows_at(recipe: Path, step: int) -> list[int]:
    """Rows of a step, as the logs count."""
    settings, problems = parse_recipe(read_settings(recipe, ["run_dir=none"]))
    assert settings is not None, problems
    num_rows = Corpus.open(settings.corpus).batcher(settings, "train").split.num_rows
    rows, _ = rows_of_step(step - 1, settings.train.global_batch_size, num_rows, settings.seed)
    return rows.tolist()


def train_poisoned(
    recipe: Path, poison: Poison, run_dir: Path, processes: int = 1, **settings: object
) -> Finished:
    command = [sys.executable, "-m", "tests.e2e.poison", poison.to_json(), str(processes), str(recipe)]
    return run_command([*command, *overrides(run_dir=run_dir, **settings)])


def events(run_dir: Path, kind: str) -> list[dict]:
    return [event for event in RunDir(run_dir).read_events() if event["event"] == kind]


def without_clock(run_dir: Path) -> list[dict]:
    return [{key: line[key] for key in line.keys() - MEASURED_FIELDS} for line in read_metrics(run_dir)]


@pytest.mark.parametrize("stage", STAGES)
def test_nan_on_one_process_skips_the_step_on_all(recipe, tmp_path, stage):
    """Of micro-batches of two rows, the second is the second process's."""
    row = rows_at(recipe, 3)[2]
    settings = {"train__deepspeed": stage, "train__num_steps": 4}
    finished = train_poisoned(recipe, Poison(steps=[3], rows=[row]), tmp_path, 2, **settings)
    assert finished.code == 0, finished.output
    assert f"step 3 skipped: the loss is not finite in row(s) {row} " in finished.output
    (skipped,) = events(tmp_path, "skipped step")
    assert (skipped["step"], skipped["rows"], skipped["reason"]) == (3, [row], "loss")
    lines = read_metrics(tmp_path)
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 0]
    assert [line["loss"] is None for line in lines] == [False, False, True, False]
    assert lines[2]["tokens"] == lines[1]["tokens"]


@pytest.mark.parametrize(("stage", "precision"), [("zero0", "fp32"), ("zero2", "bf16"), ("zero3", "bf16")])
def test_gradient_alone_that_is_not_finite_skips_the_step(recipe, tmp_path, stage, precision):
    poison = Poison(steps=[3], rows=rows_at(recipe, 3)[:1], only_gradient=True)
    settings = {"train__deepspeed": stage, "train__precision": precision, "train__num_steps": 4}
    finished = train_poisoned(recipe, poison, tmp_path, 2, **settings)
    assert finished.code == 0, finished.output
    assert "the gradient is not finite although every row's loss is" in finished.output
    (skipped,) = events(tmp_path, "skipped step")
    assert skipped["reason"] == "gradient"
    assert sorted(skipped["rows"]) == sorted(rows_at(recipe, 3))


BAD_STEPS = Poison(steps=[6, 7, 8], rows=None)


@pytest.fixture(scope="module")
def rolled_back(recipe, tmp_path_factory) -> Path:
    """Three steps in a row fail after the checkpoint of step 4, on two processes under ZeRO-2."""
    run_dir = tmp_path_factory.mktemp("rolled-back") / "run"
    settings = {"train__deepspeed": "zero2", "data__num_workers": 1}
    finished = train_poisoned(recipe, BAD_STEPS, run_dir, 2, **settings)
    assert finished.code == 0, finished.output
    return run_dir


def test_bad_steps_in_a_row_are_gone_back_for_and_passed_over(recipe, rolled_back):
    (rollback,) = events(rolled_back, "rollback")
    assert (rollback["from_step"], rollback["to_step"], rollback["skipping"]) == (8, 4, [6, 7, 8])
    (rows,) = rollback["rows"].values()
    assert rows == sorted({row for step in (6, 7, 8) for row in rows_at(recipe, step)})
    assert [event["step"] for event in events(rolled_back, "skipped step")] == [6, 7, 8]
    lines = read_metrics(rolled_back)
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["skipped_steps"] for line in lines] == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert [event["step"] for event in events(rolled_back, "checkpoint")] == [4, 8, 10]
    assert events(rolled_back, "done")


def test_a_step_that_is_passed_over_counts_as_one_that_was_skipped(recipe, rolled_back, tmp_path):
    """Nothing remains of the attempts: the run is that of who knew before."""
    shutil.copy(rolled_back / "skipped_steps.json", tmp_path)
    settings = {"train__deepspeed": "zero2"}
    finished = train(recipe, *overrides(run_dir=tmp_path, **settings), launcher="processes")
    assert finished.code == 0, finished.output
    assert not events(tmp_path, "skipped step")
    assert without_clock(tmp_path) == without_clock(rolled_back)


def test_stopped_among_bad_steps_and_gone_on_equals_undisturbed(recipe, rolled_back, tmp_path):
    """The stop waits for the run to have gone back: weights that may be to blame are not saved."""
    settings = {"train__deepspeed": "zero2"}
    command = [sys.executable, "-m", "tests.e2e.poison", BAD_STEPS.to_json(), "2", str(recipe)]
    options = [*command, *overrides(run_dir=tmp_path, **settings)]
    stopped = run_command([*options, "--stop-at", "7"])
    assert stopped.code == 75, stopped.output
    assert [step_of(path) for path in list_checkpoints(tmp_path / "checkpoints")] == [7, 4]
    again = run_command(options)
    assert again.code == 0, again.output
    assert [event["step"] for event in events(tmp_path, "resume")] == [7]
    assert len(events(tmp_path, "rollback")) == 1
    assert without_clock(tmp_path) == without_clock(rolled_back)


def test_a_run_that_fails_everywhere_ends_with_78_and_good_checkpoints(recipe, tmp_path):
    poison = Poison(steps=list(range(5, 11)), rows=None)
    settings = {"checkpoint__every_steps": 2, "recovery__max_bad_steps": 2, "recovery__max_rollbacks": 1}
    finished = train_poisoned(recipe, poison, tmp_path, 2, **settings)
    assert finished.code == 78, finished.output
    message = (
        "has diverged: the loss or gradient of steps 7, 8 was not finite, and the run has been taken back 1"
    )
    assert finished.output.count(message) == 1
    assert "python -m data_prep inspect" in finished.output
    assert "Traceback" not in finished.output
    assert events(tmp_path, "diverged")[0]["steps"] == [7, 8]
    checkpoints = list_checkpoints(tmp_path / "checkpoints")
    assert [step_of(path) for path in checkpoints] == [6, 4]
    assert [find_damage(path) for path in checkpoints] == [None, None]

    again = train_poisoned(recipe, poison, tmp_path, 2, **settings)
    assert again.code == 78, again.output
    assert len(json.loads((tmp_path / "skipped_steps.json").read_text())["rollbacks"]) == 1


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(recipe, tmp_path):
    finished = train_poisoned(recipe, Poison(steps=[1, 2, 3], rows=None), tmp_path)
    assert finished.code == 78
    assert "steps 1, 2, 3 was not finite, and there is no checkpoint yet to go back to" in finished.output
    assert not list_checkpoints(tmp_path / "checkpoints")


def test_a_spike_is_told_with_its_rows_also_after_a_resume(recipe, tmp_path):
    """Logged every five steps; the stop falls into the window that has the spike, after it."""
    row = rows_at(recipe, 27)[5]
    poison = Poison(steps=[27], rows=[row], factor=6.0)
    settings = {"train__num_steps": 30, "logging__every_steps": 5}
    command = [sys.executable, "-m", "tests.e2e.poison", poison.to_json(), "2", str(recipe)]
    options = [*command, *overrides(run_dir=tmp_path, **settings)]
    stopped = run_command([*options, "--stop-at", "28"])
    assert stopped.code == 75, stopped.output
    assert not events(tmp_path, "loss spike")
    finished = run_command(options)
    assert finished.code == 0, finished.output
    (spike,) = events(tmp_path, "loss spike")
    assert (spike["step"], spike["rows"][0]) == (27, row)
    assert spike["row_losses"][0] > 4 * spike["row_losses"][1]
    assert spike["loss"] > 1.4 * spike["usual"]
    assert not events(tmp_path, "skipped step")
