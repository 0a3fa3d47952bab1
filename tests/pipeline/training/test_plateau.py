"""When guidance has had its time, and what is told if it brought nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.guidance.schedule import GuidanceSchedule
from pipeline.training import plateau
from pipeline.training.plateau import EARLIEST_ONSET, PlateauWatch, due_step

UNIGRAM = 7.0
STUDIES = Path(__file__).parents[3] / "benchmarks" / "results" / "studies"


class Events(list):
    """A run's events."""

    def add_event(self, kind: str, **details: object) -> None:
        self.append({"event": kind, **details})

    def read_events(self) -> list:
        return self


@pytest.fixture
def watch(monkeypatch, make_recipe):
    """`watch(formed_step, plateau_steps=300)`: of a run of 600 steps that is evaluated every 50."""
    monkeypatch.setattr(plateau, "held_out_baseline", lambda *_: {"loss": UNIGRAM})
    recipe = make_recipe({"train.num_steps": 600, "evaluation.every_steps": 50})

    def make(formed_step: int | None, **settings: object) -> PlateauWatch:
        schedule = GuidanceSchedule(
            **{
                **{"weight": 1.0, "plateau_steps": 300, "end_step": 600, "layers": (0,), "seed": 0},
                **{"dense_steps": None, "layers_per_step": None, **settings},
            }
        )
        guidance = SimpleNamespace(schedule=schedule, formation=SimpleNamespace(formed_step=formed_step))
        return PlateauWatch(recipe, None, Events(), guidance)

    return make


def told_at(watch: PlateauWatch, loss: float = 0.99 * UNIGRAM) -> list[int]:
    return [step for step in range(50, 601, 50) if watch.look(step, loss) is not None]


@pytest.mark.parametrize(
    ("formed_step", "settings", "told"),
    [
        (50, {}, [200]),
        (140, {}, [600]),  # later than the last evaluation
        (None, {}, [300]),
        (None, {"plateau_steps": 600}, [600]),
        (None, {"plateau_steps": 300, "end_step": 300}, [300]),
        (140, {"plateau_steps": 100, "end_step": 250}, []),  # the model had no time after the patterns formed
        (100, {"plateau_steps": 100, "end_step": 250}, [250]),
        (10, {}, [200]),  # no run leaves the plateau earlier, guided or not
        (10, {"plateau_steps": 100, "end_step": 150}, []),
        (None, {"dense_steps": 10}, [300]),
        (None, {"weight": 0.0, "bias": 8.0}, [300]),
        (50, {"weight": 0.0}, []),
    ],
)
def test_it_is_told_once_when_guidance_has_had_its_time(watch, formed_step, settings, told):
    assert told_at(watch(formed_step, **settings)) == told


def test_a_model_off_the_plateau_is_not_complained_about(watch):
    assert told_at(watch(50), loss=0.96 * UNIGRAM) == []


def test_without_a_baseline_there_is_no_plateau(watch, monkeypatch):
    made = watch(50)
    monkeypatch.setattr(plateau, "held_out_baseline", lambda *_: {})
    assert told_at(made) == []


def test_a_run_that_was_told_before_a_restart_is_not_told_again(watch):
    made = watch(50)
    made._run.add_event(plateau.EVENT, step=100)
    assert told_at(made) == []


def test_due_step_by_hand():
    assert due_step(50, 300, 600, 36) == 200
    assert due_step(60, 300, 600, 36) == 240
    assert due_step(None, 300, 250, 36) == 250
    assert due_step(50, 300, 600, 400) == 400  # the learning rate is still small before


def test_runs_too_short_to_leave_the_plateau_are_not_judged():
    assert due_step(None, 3, 6, 0) is None
    assert due_step(10, 100, 199, 12) is None
    assert due_step(10, 100, 600, 601) is None


def test_no_study_left_the_plateau_before_the_earliest_step_that_is_judged():
    onsets = [onset for path in sorted(STUDIES.glob("*/study_results.json")) for onset in onsets_of(path)]
    assert len(onsets) > 100
    assert min(onsets) == EARLIEST_ONSET


def onsets_of(path: Path) -> list[int]:
    """First evaluations below 0.97 of the unigram model, of all runs of a study that came there."""
    results = json.loads(path.read_text())
    curves = [run["curve"] for cell in results["cells"] for run in cell["runs"]]
    below = [
        [step for step, loss in zip(curve["steps"], curve["losses"]) if loss < 0.97 * results["unigram_loss"]]
        for curve in curves
    ]
    return [steps[0] for steps in below if steps]
