"""The loop over steps: what happens between them, and when."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.checkpoints.loading import Source
from pipeline.config.schema import Recipe
from pipeline.errors import DivergedError
from pipeline.processes.cluster import Cluster
from pipeline.processes.stop import StopRequest
from pipeline.runs.run_dir import RunDir
from pipeline.training import trainer as trainer_module
from pipeline.training.faults import Fault
from pipeline.training.recovery import Recovery
from pipeline.training.step import StepOutcome
from pipeline.training.trainer import Surroundings, Trainer


class FakeEngine:
    """Counts steps as DeepSpeed's does."""

    def __init__(self) -> None:
        self.global_steps = self.global_samples = self.micro_steps = self.skipped_steps = 0

    def train(self) -> None: ...

    def train_batch_size(self) -> int:
        return 8

    def gradient_accumulation_steps(self) -> int:
        return 1

    def get_global_grad_norm(self) -> float | None:
        return 0.5


class Fakes:
    """A trainer among fakes that write down what it asks of them, in order.

    Attributes:
        seen: (what, step).
        bad: steps, counted from 0, that go wrong every time they are tried.
        stop_after: a process is asked to stop after this many steps.
    """

    def __init__(self, recipe: Recipe, run: RunDir, cluster: Cluster) -> None:
        self.seen: list[tuple[str, int]] = []
        self.events: dict[int, dict[str, Any]] = {}
        self.bad: set[int] = set()
        self.stop_after: int | None = None
        self.plateau_says: str | None = None
        self.stop = StopRequest()
        self.saved: list[dict[str, Any]] = []
        self.window: list[dict[str, int]] = []
        self.trained: list[int] = []
        self.part = SimpleNamespace(name="part", state=lambda: {"step": self.trainer.step})
        timings = SimpleNamespace(
            step=contextlib.nullcontext,
            loading=contextlib.nullcontext,
            counted=contextlib.nullcontext,
            read_clocks=lambda: None,
        )
        self.trainer = Trainer(
            around=Surroundings(recipe, run, cluster, SimpleNamespace(at=lambda place: None)),
            stepper=SimpleNamespace(
                engine=FakeEngine(),
                run=self._take_step,
                window=SimpleNamespace(add=self.window.append),
                row_losses=SimpleNamespace(take=lambda cluster: []),
            ),
            batches=None,
            phase=SimpleNamespace(enter=lambda step: self._see("phase", step)),
            recovery=Recovery(recipe, run, cluster),
            log=SimpleNamespace(
                timings=timings,
                step_done=lambda: None,
                write_training=lambda step, norm: self._see("log", step),
                write_valid=lambda step, line: self._see("valid", step),
                open=lambda step: self._see("open", step),
                close=lambda: self._see("close", self.trainer.step),
            ),
            checkpoints=SimpleNamespace(
                is_written=False,
                longest_seconds=None,
                publish_if_written=lambda number: None,
                save=self._save,
                finish=lambda: None,
                saver=SimpleNamespace(abandon=lambda: None, zero_stage=1),
            ),
            evaluate=lambda: {"loss": 1.0},
            keep_snapshot=lambda step: self._see("snapshot", step),
            regularizers=[SimpleNamespace(after_step=lambda step, cluster: self.events.get(step))],
            parts=[self.part],
            plateau=SimpleNamespace(look=lambda step, loss: self.plateau_says),
        )
        self.trainer._load_batches = self._load_batches  # type: ignore[method-assign]

    def of(self, what: str) -> list[int]:
        """Steps at which that was asked."""
        return [step for seen, step in self.seen if seen == what]

    def go(self, stop_at: int | None = None) -> bool:
        return self.trainer.run_steps(self.stop, stop_at)

    def _see(self, what: str, step: int) -> None:
        self.seen.append((what, step))

    def _load_batches(self) -> Iterator[list[int]]:
        recovery, recipe = self.trainer.recovery, self.trainer.recipe
        return iter([[s] for s in recovery.steps_to_train(self.trainer.step, recipe.train.num_steps)])

    def _take_step(self, step: int, batches: list[int], flags: list[bool]) -> StepOutcome:
        assert batches == [step]  # the loader and the loop are in step
        self.trained.append(step)
        if self.stop_after == step + 1:
            self.stop.ask("SIGTERM")
            flags = [True, flags[1]]
        fault = Fault(step + 1, [7], "loss") if step in self.bad else None
        return StepOutcome([int(flag) for flag in flags], fault)

    def _save(self, step: int, state: dict[str, Any], *, wait: bool) -> None:
        self._see("save and wait" if wait else "save", step)
        self.saved.append(state)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than all the rest."""
    nothing = SimpleNamespace(collect_young=lambda step: None, collect_all=lambda: None)
    monkeypatch.setattr(trainer_module, "GarbageCollection", lambda: contextlib.nullcontext(nothing))


@pytest.fixture
def make(make_recipe: Callable[..., Recipe], tmp_path: Path, alone: Cluster) -> Callable[..., Fakes]:
    """Of 12 steps: a log line every 2, an evaluation every 6, a checkpoint every 4."""

    def begin(**overrides: Any) -> Fakes:
        settings = {key.replace("__", "."): value for key, value in overrides.items()}
        return Fakes(make_recipe(settings), RunDir(tmp_path / "run"), alone)

    (tmp_path / "run").mkdir()
    return begin


@pytest.fixture
def checkpoint_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Fakes, int], None]:
    """`checkpoint_of(fakes, 4)`: from now on there is one to go back to, and loading it is noted."""

    def put(fakes: Fakes, step: int) -> None:
        source = Source(tmp_path / f"step-{step:08d}", None, 1)
        assert source.step == step
        monkeypatch.setattr(trainer_module, "find_source", lambda *_: source)
        monkeypatch.setattr(trainer_module, "load_checkpoint", lambda *_: fakes._see("load", step))
        monkeypatch.setattr(trainer_module, "restore_parts", lambda *_: fakes._see("restore", step))

    return put


def events_of(fakes: Fakes) -> list[tuple[str, int | None]]:
    return [(event["event"], event.get("step")) for event in fakes.trainer.run.read_events()]


def test_a_run_to_its_end(make: Callable[..., Fakes]) -> None:
    fakes = make()

    assert fakes.go()

    assert fakes.trained == list(range(12)) == fakes.of("phase")
    assert fakes.of("snapshot") == [0, 1]
    assert fakes.of("log") == [2, 4, 6, 8, 10, 12]
    assert fakes.of("valid") == [6, 12]
    assert fakes.of("save") == [4, 8]
    assert fakes.of("save and wait") == [12]
    assert events_of(fakes) == [("done", 12)]


def test_the_last_step_is_logged_evaluated_and_saved_whatever_its_number(make: Callable[..., Fakes]) -> None:
    fakes = make(train__num_steps=7)

    assert fakes.go()

    assert (fakes.of("log"), fakes.of("valid")) == ([2, 4, 6, 7], [6, 7])
    assert (fakes.of("save"), fakes.of("save and wait")) == ([4], [7])


def test_a_checkpoint_comes_after_the_lines_of_its_step_and_has_all_parts(make: Callable[..., Fakes]) -> None:
    fakes = make(logging__every_steps=4, evaluation__every_steps=4)

    fakes.go()

    assert [entry for entry in fakes.seen if entry[1] == 8 and entry[0] != "phase"] == [
        ("log", 8),
        ("valid", 8),
        ("save", 8),
    ]
    assert [state["part"]["step"] for state in fakes.saved] == [4, 8, 12]
    assert all(state.keys() == {"random", "part"} for state in fakes.saved)


def test_it_goes_on_where_it_was(make: Callable[..., Fakes]) -> None:
    fakes = make()
    fakes.trainer.step = 8

    assert fakes.go()

    assert fakes.trained == [8, 9, 10, 11]
    assert fakes.of("snapshot") == []


def test_a_wish_to_stop_saves_and_ends(make: Callable[..., Fakes]) -> None:
    fakes = make()
    fakes.stop_after = 5

    assert not fakes.go()

    assert fakes.trained == list(range(5))
    assert (fakes.of("save"), fakes.of("save and wait")) == ([4], [5])
    (event,) = fakes.trainer.run.read_events()
    assert (event["event"], event["step"], event["reason"]) == ("stop", 5, "SIGTERM")


def test_stop_at_a_step(make: Callable[..., Fakes]) -> None:
    fakes = make()

    assert not fakes.go(stop_at=3)

    assert fakes.of("save and wait") == [3]
    assert fakes.trainer.run.read_events()[-1]["reason"] == "requested"


def test_a_stop_in_the_last_step_is_the_end(make: Callable[..., Fakes]) -> None:
    fakes = make()
    fakes.stop_after = 12

    assert fakes.go()

    assert events_of(fakes) == [("done", 12)]


def test_a_machine_that_is_taken_away_soon_is_a_reason_to_stop(make: Callable[..., Fakes]) -> None:
    fakes = make()
    fakes.trainer.deadline = SimpleNamespace(is_near=lambda *_: fakes.trainer.step >= 4)

    assert not fakes.go()

    assert fakes.trained == list(range(5))
    assert fakes.trainer.run.read_events()[-1]["reason"] == "deadline"


def test_events_of_regularizers_are_written_once(make: Callable[..., Fakes]) -> None:
    fakes = make()
    fakes.events = {4: {"kind": "patterns formed", "step": 5, "mean_mass": 0.75}}

    fakes.go()

    first, last = fakes.trainer.run.read_events()
    assert {key: value for key, value in first.items() if key != "time"} == {
        "event": "patterns formed",
        "step": 5,
        "mean_mass": 0.75,
    }
    assert last["event"] == "done"


def test_events_are_written_by_the_main_process_only(
    make_recipe: Callable[..., Recipe], tmp_path: Path, alone: Cluster
) -> None:
    (tmp_path / "run").mkdir()
    alone.rank = 1
    fakes = Fakes(make_recipe(), RunDir(tmp_path / "run"), alone)
    fakes.events = {4: {"kind": "patterns formed", "step": 5}}

    fakes.go()

    assert fakes.trainer.run.read_events() == []


def test_what_the_plateau_says_is_told(make: Callable[..., Fakes], caplog: pytest.LogCaptureFixture) -> None:
    fakes = make(train__num_steps=6)
    fakes.plateau_says = "guidance holds it back"

    fakes.go()

    assert "guidance holds it back" in caplog.text


def test_a_bad_step_delays_checkpoint_and_stop_until_a_good_one(make: Callable[..., Fakes]) -> None:
    """The weights may be what makes the series."""
    fakes = make()
    fakes.bad, fakes.stop_after = {3, 4}, 4

    fakes.go(stop_at=4)

    # Both were due at step 4, which was bad, as was step 5.
    assert (fakes.of("save"), fakes.of("save and wait")) == ([], [6])
    assert fakes.trained == list(range(6))
    assert events_of(fakes) == [("skipped step", 4), ("skipped step", 5), ("stop", 6)]


def test_a_full_series_goes_back_and_passes_over(
    make: Callable[..., Fakes], checkpoint_of: Callable[[Fakes, int], None]
) -> None:
    fakes = make(recovery__max_bad_steps=3)
    fakes.bad = {5, 6, 7}
    checkpoint_of(fakes, 4)

    assert fakes.go()

    assert fakes.trained == [*range(8), 4, 8, 9, 10, 11]
    assert [what for what, step in fakes.seen if what in ("load", "restore", "open")] == [
        "load",
        "restore",
        "open",
    ]
    assert fakes.of("open") == [4]
    # The steps passed over are counted, by the engine as well, and nothing of the series was saved.
    assert fakes.window == [{"skipped_steps": 1}] * 3
    assert fakes.trainer.stepper.engine.skipped_steps == 3
    assert fakes.of("save") == [4, 8]
    assert fakes.of("phase") == [*range(8), *range(4, 12)]
    kinds = [event["event"] for event in fakes.trainer.run.read_events()]
    assert kinds == ["skipped step"] * 3 + ["rollback", "done"]


def test_a_save_that_was_due_before_going_back_is_due_no_more(
    make: Callable[..., Fakes], checkpoint_of: Callable[[Fakes, int], None]
) -> None:
    fakes = make(recovery__max_bad_steps=2)
    fakes.bad = {7, 8}  # step 8 would be saved, and is bad
    checkpoint_of(fakes, 4)

    fakes.go()

    assert fakes.trained == [*range(9), 4, 5, 6, 9, 10, 11]
    assert fakes.of("save") == [4, 8]  # once: passed over, after it had come by again


def test_without_a_checkpoint_the_run_has_diverged(
    make: Callable[..., Fakes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "find_source", lambda *_: None)
    fakes = make(recovery__max_bad_steps=2)
    fakes.bad = {0, 1}

    with pytest.raises(DivergedError):
        fakes.go()


def test_closing_ends_what_goes_on_in_the_background(make: Callable[..., Fakes]) -> None:
    fakes, ended = make(), []
    fakes.trainer.checkpoints.saver.abandon = lambda: ended.append("saver")
    fakes.trainer.profiler = SimpleNamespace(finish=lambda: ended.append("profiler"))

    fakes.trainer.close()

    assert ended == ["saver", "profiler"]
    assert fakes.of("close") == [0]
