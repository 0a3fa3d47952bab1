"""What is decided about bad steps, told and remembered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.checkpoints.loading import Source
from pipeline.config.schema import Recipe
from pipeline.errors import CheckpointError, DivergedError
from pipeline.processes.cluster import Cluster
from pipeline.runs.run_dir import RunDir
from pipeline.training.faults import Fault
from pipeline.training.recovery import Recovery
from pipeline.training.row_losses import StepLosses
from pipeline.training.skipped_steps import Rollback, SkippedSteps

CHECKPOINT = Source(Path("checkpoints/step-00000004"), None, 1)


@pytest.fixture
def make(tmp_path: Path, make_recipe: Callable[..., Recipe], alone: Cluster) -> Callable[..., Recovery]:
    """What a start of the run has, the first or a later one."""

    def begin(**settings: Any) -> Recovery:
        recipe = make_recipe({f"recovery.{key}": value for key, value in settings.items()})
        return Recovery(recipe, RunDir(tmp_path), alone)

    return begin


def fail(recovery: Recovery, *steps: int) -> None:
    for step in steps:
        recovery.note(Fault(step, [10 * step, 7], "loss"))


def test_bad_steps_are_told(make: Callable[..., Recovery], caplog: pytest.LogCaptureFixture) -> None:
    recovery = make()
    fail(recovery, 6)
    (event,) = recovery.run.read_events()
    assert event | {"time": ""} == {
        "time": "",
        "event": "skipped step",
        "step": 6,
        "reason": "loss",
        "corpus": recovery.recipe.corpus,
        "rows": [60, 7],
    }
    assert (
        f"step 6 skipped: the loss is not finite in row(s) 60, 7 of {recovery.recipe.corpus}" in caplog.text
    )
    assert not recovery.is_settled
    recovery.note(None)
    assert recovery.is_settled


def test_steps_gone_back_for_are_passed_over_by_every_later_start(make: Callable[..., Recovery]) -> None:
    recovery = make(max_bad_steps=2)
    fail(recovery, 6, 7)
    assert recovery.series.is_full
    assert recovery.go_back(7, CHECKPOINT) is CHECKPOINT
    recovery.went_back()

    assert recovery.is_settled
    for again in (recovery, make()):
        assert [again.passes_over(step) for step in range(4, 9)] == [False, True, True, False, False]
        assert list(again.steps_to_train(4, 9)) == [4, 7, 8]
    event = recovery.run.read_events()[-1]
    assert (event["event"], event["from_step"], event["to_step"]) == ("rollback", 7, 4)
    assert (event["skipping"], event["rows"]) == ([6, 7], {recovery.recipe.corpus: [7, 60, 70]})


def test_rows_are_those_of_the_phases_corpora(
    tmp_path: Path, make_recipe: Callable[..., Recipe], alone: Cluster
) -> None:
    """The steps 5 and 6, as the logs count, are on two sides of a border."""
    recipe = make_recipe({"curriculum": [{"until": 5, "corpus": "short"}], "recovery.max_bad_steps": 3})
    recovery = Recovery(recipe, RunDir(tmp_path), alone)
    recovery.note(Fault(5, [9, 3], "loss"))
    recovery.note(Fault(6, [8, 3], "loss"))
    recovery.note(Fault(7, [8, 1], "gradient"))

    with pytest.raises(DivergedError) as caught:
        recovery.go_back(7, None)

    skipped = [event for event in recovery.run.read_events() if event["event"] == "skipped step"]
    assert [event["corpus"] for event in skipped] == ["short", recipe.corpus, recipe.corpus]
    assert recovery.run.read_events()[-1]["rows"] == {"short": [3, 9], recipe.corpus: [1, 3, 8]}
    assert "python -m data_prep inspect short --rows 3 9\n" in str(caught.value)
    assert f"python -m data_prep inspect {recipe.corpus} --rows 1 3 8\n" in str(caught.value)


def test_a_run_that_never_went_back_trains_every_step(make: Callable[..., Recovery]) -> None:
    assert make().steps_to_train(3, 2_000_000) == range(3, 2_000_000)


def test_the_number_of_times_is_that_of_the_run_not_of_the_start(make: Callable[..., Recovery]) -> None:
    for steps in ((6, 7), (9, 10)):
        recovery = make(max_bad_steps=2, max_rollbacks=2)
        fail(recovery, *steps)
        recovery.go_back(steps[-1], CHECKPOINT)
    recovery = make(max_bad_steps=2, max_rollbacks=2)
    fail(recovery, 11, 12)
    before = recovery.run.skipped_steps_file.read_bytes()

    with pytest.raises(DivergedError) as caught:
        recovery.go_back(12, CHECKPOINT)

    message = str(caught.value)
    assert "steps 11, 12 was not finite, and the run has been taken back 2 time(s) already" in message
    assert f"python -m data_prep inspect {recovery.recipe.corpus} --rows 7 110 120\n" in message
    assert "no loss was logged before" in message
    assert "raise recovery.max_rollbacks" in message
    assert caught.value.exit_code == 78
    assert recovery.run.skipped_steps_file.read_bytes() == before
    assert recovery.run.read_events()[-1]["event"] == "diverged"


def test_without_a_checkpoint_the_run_ends(make: Callable[..., Recovery]) -> None:
    recovery = make(max_bad_steps=1)
    recovery.look_for_spikes([losses(step, 5.0) for step in range(9)])
    fail(recovery, 10)
    with pytest.raises(DivergedError, match=r"no checkpoint yet to go back to; the loss was 5\.0000 before"):
        recovery.go_back(10, None)
    assert not recovery.run.skipped_steps_file.exists()


def test_a_spike_is_told_with_the_rows_of_the_highest_losses(make: Callable[..., Recovery]) -> None:
    recovery = make()
    recovery.look_for_spikes([losses(step, 5.0 + 0.01 * (step % 3)) for step in range(50)])
    assert not recovery.run.read_events()
    recovery.look_for_spikes([losses(50, 9.0)])
    (event,) = recovery.run.read_events()
    assert (event["event"], event["step"], event["loss"]) == ("loss spike", 50, pytest.approx(9.0))
    assert event["usual"] == pytest.approx(5.01)
    assert event["corpus"] == recovery.recipe.corpus
    assert event["rows"] == [19, 18, 17, 16, 15, 14, 13, 12, 11, 10]
    assert event["row_losses"] == sorted(event["row_losses"], reverse=True)


def losses(step: int, mean: float) -> StepLosses:
    """Twenty rows with two tokens each, the losses rising by row."""
    sums = 2 * mean * (1 + 0.1 * (np.arange(20) - 9.5))
    return StepLosses(step, np.arange(20), sums, np.full(20, 2.0))


def test_what_was_skipped_is_read_back(tmp_path: Path) -> None:
    skipped = SkippedSteps().after(Rollback(from_step=8, to_step=4, steps=[6, 7], rows={"corpus": [1]}))
    skipped.write(tmp_path / "skipped.json")
    assert SkippedSteps.read(tmp_path / "skipped.json") == skipped
    assert skipped.steps == {6, 7}
    assert SkippedSteps.read(tmp_path / "nothing.json").steps == frozenset()


@pytest.mark.parametrize("content", ["", "{", json.dumps({"rollbacks": [{"from_step": 8}]})])
def test_a_damaged_account_is_not_taken_for_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "skipped.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"skipped\.json is not readable"):
        SkippedSteps.read(tmp_path / "skipped.json")
