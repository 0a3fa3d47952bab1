"""When guidance has had its time, and what is told if it brought nothing."""

from types import SimpleNamespace

import pytest

from pipeline.guidance.schedule import GuidanceSchedule
from pipeline.training import plateau
from pipeline.training.plateau import PlateauWatch, due_step, explain

UNIGRAM = 7.0


class Events(list):
    """A run's events."""

    def add_event(self, kind: str, **details: object) -> None:
        self.append({"event": kind, **details})

    def read_events(self) -> list:
        return self


@pytest.fixture
def watch(monkeypatch, make_recipe):
    """`watch(formed_step, plateau_steps=300)`: of a run of 600 steps that is evaluated every 50."""
    monkeypatch.setattr(plateau, "held_out_unigram_loss", lambda *_: UNIGRAM)
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
        (140, {"plateau_steps": 100, "end_step": 200}, [200]),
        (None, {"dense_steps": 10}, [300]),
        (None, {"weight": 0.0, "bias": 8.0}, [300]),
        (50, {"weight": 0.0}, []),
    ],
)
def test_it_is_told_once_when_guidance_has_had_its_time(watch, formed_step, settings, told):
    assert told_at(watch(formed_step, **settings)) == told


def test_a_model_off_the_plateau_is_not_complained_about(watch):
    assert told_at(watch(50), loss=0.96 * UNIGRAM) == []


def test_a_run_that_was_told_before_a_restart_is_not_told_again(watch):
    made = watch(50)
    made._run.add_event(plateau.EVENT, step=100)
    assert told_at(made) == []


def test_due_step_by_hand():
    assert due_step(50, 300, 600) == 200
    assert due_step(None, 300, 250) == 250


def test_advice_depends_on_whether_the_patterns_formed():
    assert "formed at step 40" in explain(100, 6.8, 6.87, 40)
    assert "lower guidance.weight" in explain(100, 6.8, 6.87, 40)
    assert "have not formed" in explain(100, 6.8, 6.87, None)
    assert "6.800" in explain(100, 6.8, 6.87, None)
