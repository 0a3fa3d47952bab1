"""Which exit codes are answered by a requeue, and when a job that makes no progress is given up."""

from pathlib import Path

import pytest

from data_prep import errors as prep_errors
from pipeline import errors
from pipeline.__main__ import main
from pipeline.runs.requeue import judge
from pipeline.runs.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run's directory with a checkpoint of step 20, seen from SLURM job 7."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    run = RunDir(tmp_path / "run")
    (run.checkpoints / "step-00000020").mkdir(parents=True)
    return run


def decide(run: RunDir, exit_code: int, *options: str) -> int:
    return main(["requeue", str(run.path), "--exit-code", str(exit_code), *options])


@pytest.mark.parametrize(
    "exit_code", [errors.EXIT_STOPPED, errors.EXIT_LOST, 128 + 9, 128 + 11, 128 + 12, 128 + 15]
)
def test_stopped_lost_and_killed_trainings_are_requeued(exit_code: int) -> None:
    assert judge(exit_code, 20, [], 3).requeue


@pytest.mark.parametrize(
    "exit_code",
    [
        *(0, 1, 2, 126, 127, 128, 255),
        *(prep_errors.EXIT_USAGE, prep_errors.EXIT_DATA, prep_errors.EXIT_INTERNAL, prep_errors.EXIT_FILES),
        *(errors.RecipeError.exit_code, prep_errors.EXIT_INTERRUPTED),
    ],
)
def test_everything_else_is_not(exit_code: int) -> None:
    assert not judge(exit_code, 20, [], 3).requeue


@pytest.mark.parametrize("exit_code", [errors.EXIT_STOPPED, 128 + 9])
def test_a_job_that_gets_nowhere_is_given_up(exit_code: int) -> None:
    assert judge(exit_code, 20, [20, 20], 3).requeue
    verdict = judge(exit_code, 20, [20, 20, 20], 3)
    assert not verdict.requeue
    assert "the last 3 requeues brought no checkpoint after it" in verdict.reason
    assert not judge(exit_code, 10, [20, 20, 20], 3).requeue, "the newest checkpoint was damaged"


def test_any_progress_keeps_a_job_going() -> None:
    assert judge(errors.EXIT_STOPPED, 20, [*range(100), 10, 20, 20], 3).requeue
    assert judge(errors.EXIT_LOST, 21, [20] * 100, 3).requeue


def test_the_decision_is_an_exit_code_an_event_and_a_line(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decide(run, 75) == 0
    assert capsys.readouterr().out == (
        f"{run.path}: requeue at step 20 after exit code 75: "
        "training stopped on request, with a good checkpoint\n"
    )
    assert decide(run, 78) == 1
    requeued, not_requeued = run.read_events()
    assert (
        requeued.items() >= {"event": "requeue", "step": 20, "exit_code": 75, "job": 7, "restart": 2}.items()
    )
    assert not_requeued["event"] == "not requeued"
    assert not_requeued["reason"] == "the recipe is wrong"


def test_requeues_are_counted_for_one_job(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is submitted after another was given up starts to count anew."""
    assert [decide(run, 137, "--max-without-progress", "2") for _ in range(3)] == [0, 0, 1]
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert decide(run, 137, "--max-without-progress", "2") == 0
    (run.checkpoints / "step-00000030").mkdir()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert decide(run, 137, "--max-without-progress", "2") == 0


def test_a_run_that_had_written_nothing_counts_as_step_0(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert decide(run, 137) == 0
    assert run.read_events()[0]["step"] == 0


def test_a_wrong_directory_is_no_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decide(RunDir(tmp_path / "nothing"), 75) == 64
    assert "nothing is no directory" in capsys.readouterr().err
