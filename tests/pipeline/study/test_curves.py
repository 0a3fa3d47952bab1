"""A run's files become its curve, whatever state they are in."""

import pytest

from pipeline.accounting.metrics import MetricsLog
from pipeline.errors import DataError, UserError
from pipeline.study.curves import Curve, read_curve
from tests.pipeline.study.synthetic import write_run


def test_seconds_are_means_times_steps_and_linear_between_lines(tmp_path):
    train = [
        {"step": 10, "step_seconds": 1.0, "loss": 6.0},
        {"step": 20, "step_seconds": 2.0, "loss": 5.0},
        {"step": 40, "step_seconds": 0.5, "loss": 4.0},
    ]
    valid = [{"step": 15, "loss": 5.5}, {"step": 20, "loss": 5.25}, {"step": 40, "loss": 4.5}]
    events = ({"event": "start"}, {"event": "patterns formed", "step": 30}, {"event": "done", "step": 40})
    curve = read_curve(write_run(tmp_path / "run", train, valid, events=events))
    assert curve == Curve(
        state="finished",
        train_steps=(10, 20, 40),
        train_losses=(6.0, 5.0, 4.0),
        steps=(15, 20, 40),
        seconds=(20.0, 30.0, 40.0),
        tokens=(1500, 2000, 4000),
        losses=(5.5, 5.25, 4.5),
        formed_step=30,
    )
    assert curve.final_value == 4.5


def test_steps_without_an_update_are_in_no_mean(tmp_path):
    train = [
        {"step": 10, "step_seconds": 1.0},
        {"step": 20, "step_seconds": 2.5, "skipped_steps": 4},
        {"step": 30, "step_seconds": None, "skipped_steps": 10, "loss": None},
        {"step": 40, "step_seconds": 1.0},
    ]
    valid = [{"step": step, "loss": 5.0} for step in (10, 20, 30, 40)]
    curve = read_curve(write_run(tmp_path / "run", train, valid))
    assert curve.seconds == (10.0, 25.0, 25.0, 35.0)
    assert curve.train_losses == (5.0, 5.0, None, 5.0)


def test_file_cut_short_is_of_an_unfinished_run(tmp_path):
    valid = [{"step": step, "loss": 6.0} for step in (10, 20, 30)]
    path = write_run(tmp_path / "run", [{"step": 10}, {"step": 20}], valid)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "valid", "step": 40, "lo')
    curve = read_curve(path)
    assert curve.state == "unfinished"
    assert curve.steps == (10, 20)  # of the time at step 30 nothing is known yet
    assert curve.final_value is None
    assert not curve.is_over


def test_resumed_run_has_the_curve_of_an_undisturbed_one(tmp_path):
    def line(step: int, seconds: float) -> dict[str, object]:
        skipped = {"skipped_steps": 0, "step_seconds": seconds}
        return {"step": step, "loss": 9.0 - step / 10, "tokens": 100 * step, **skipped}

    undisturbed = write_run(
        tmp_path / "one",
        [line(10, 1.0), line(20, 2.0), line(30, 3.0), line(40, 4.0)],
        [{"step": 20, "loss": 5.0}, {"step": 40, "loss": 4.0}],
    )
    resumed = write_run(tmp_path / "two", [line(10, 1.0), line(20, 7.0)], [{"step": 20, "loss": 5.0}])
    # Killed after step 20 with a checkpoint of step 15: its lines of step 20 are written again.
    log = MetricsLog(resumed / "metrics.jsonl", None, 15)
    for step, seconds in ((20, 2.0), (30, 3.0), (40, 4.0)):
        log.write("train", line(step, seconds))
        if step != 30:
            log.write("valid", {"step": step, "loss": 6.0 - step / 20})
    log.close()
    assert read_curve(resumed) == read_curve(undisturbed)
    assert read_curve(resumed).seconds == (30.0, 100.0)


def test_loss_that_is_not_finite_in_the_end_is_divergence(tmp_path):
    train = [{"step": 20}, {"step": 40, "loss": None}]
    valid = [{"step": 20, "loss": None}, {"step": 40, "loss": 5.0}]
    assert read_curve(write_run(tmp_path / "back", train, valid)).losses == (None, 5.0)
    assert read_curve(tmp_path / "back").state == "finished"
    valid[1]["loss"] = None
    diverged = read_curve(write_run(tmp_path / "gone", train, valid))
    assert (diverged.state, diverged.final_value, diverged.is_over) == ("diverged", None, True)


def test_run_that_gave_up_has_diverged(tmp_path):
    events = ({"event": "start"}, {"event": "diverged", "steps": [21, 22]})
    path = write_run(tmp_path / "run", [{"step": 20}], [{"step": 20, "loss": 6.0}], events=events)
    assert read_curve(path).state == "diverged"


def test_runs_that_never_began(tmp_path):
    assert read_curve(tmp_path / "nowhere") == Curve(state="missing")
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "train.log").write_text("recipe has 1 problem")
    assert read_curve(tmp_path / "failed").state == "missing"
    assert read_curve(write_run(tmp_path / "begun", [], [])) == Curve(state="unfinished")


def test_damaged_recipe_is_named(tmp_path):
    recipe = write_run(tmp_path / "run", [], []) / "recipe.yaml"
    recipe.write_text("train: {num_steps: many}\n")
    with pytest.raises(DataError, match=r"recipe\.yaml: train\.num_steps is 'many', not a number of steps"):
        read_curve(tmp_path / "run")
    recipe.write_text("train: [")
    with pytest.raises(UserError, match=r"recipe\.yaml is not readable YAML"):
        read_curve(tmp_path / "run")
