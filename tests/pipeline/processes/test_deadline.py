import pytest

from pipeline.processes.deadline import END_TIME_VARIABLE, Deadline


def test_it_leaves_room_for_two_saves_and_two_steps() -> None:
    deadline = Deadline(10_000.0, now=0.0)
    assert not deadline.is_near(save_seconds=10.0, step_seconds=5.0, now=10_000 - 30 - 30 - 1)
    assert deadline.is_near(save_seconds=10.0, step_seconds=5.0, now=10_000 - 30 - 30 + 1)


def test_before_the_first_save_a_long_one_is_expected() -> None:
    deadline = Deadline(10_000.0, now=0.0)
    assert deadline.is_near(None, 0.0, now=10_000 - 149)
    assert not deadline.is_near(None, 0.0, now=10_000 - 151)


def test_a_short_job_gets_somewhere() -> None:
    deadline = Deadline(60.0, now=0.0)
    assert not deadline.is_near(None, 0.1, now=41.0)
    assert deadline.is_near(None, 0.1, now=43.0)


@pytest.mark.parametrize("text", ["", "0", "soon"])
def test_without_a_time_there_is_no_deadline(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(END_TIME_VARIABLE, text)
    assert not Deadline.from_environment().is_near(1e9, 1e9)


def test_it_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(END_TIME_VARIABLE, "1700000000")
    assert Deadline.from_environment().end_time == 1.7e9
