"""Who is dead and who hangs, judged from made-up signs."""

import pytest

from pipeline.errors import EXIT_LOST
from pipeline.processes.signs_of_life import Observer, Sign


@pytest.fixture
def observer() -> Observer:
    return Observer(num_processes=3, silence_seconds=60.0, hang_seconds=300.0, started=0.0)


def sign(beat: int, passed: int, place: str = "step 5: training", **more: object) -> Sign:
    return Sign(beat, passed, place, f"process {passed} on node", **more)


def tell(
    observer: Observer, now: float, passed: list[int], silent: tuple[int, ...] = (), **more: object
) -> None:
    for rank, count in enumerate(passed):
        if rank not in silent:
            observer.hear(rank, sign(int(now), count, **more), now)


def test_all_alive_and_moving_is_fine(observer: Observer) -> None:
    for now in range(0, 2000, 10):
        tell(observer, float(now), [now, now, now])
        assert observer.judge(float(now)) is None


def test_a_silent_process_is_named_with_its_place(observer: Observer) -> None:
    tell(observer, 0.0, [7, 7, 7])
    for now in range(5, 61, 5):
        tell(observer, float(now), [7, 7, 7], silent=(1,))
        assert observer.judge(float(now)) is None
    tell(observer, 61.0, [7, 7, 7], silent=(1,))
    verdict = observer.judge(61.0)
    assert verdict is not None
    assert (verdict.exit_code, verdict.ranks) == (EXIT_LOST, [1])
    assert "rank 1 (process 7 on node), last seen at: step 5: training" in verdict.message


def test_a_process_that_was_never_heard_of_is_missed(observer: Observer) -> None:
    for now in (0.0, 61.0):
        tell(observer, now, [1, 1])
    verdict = observer.judge(61.0)
    assert verdict is not None
    assert verdict.ranks == [2]
    assert "never heard of" in verdict.message


def test_a_lost_connection_shortens_the_wait(observer: Observer) -> None:
    tell(observer, 0.0, [7, 7, 7])
    tell(observer, 11.0, [7, 7, 7], silent=(1,), connection_lost=True)
    verdict = observer.judge(11.0)
    assert verdict is not None
    assert verdict.ranks == [1]


def test_the_process_all_others_wait_for_hangs(observer: Observer) -> None:
    tell(observer, 0.0, [8, 7, 8])
    for now in range(10, 301, 10):
        tell(observer, float(now), [8, 7, 8])
        assert observer.judge(float(now)) is None
    tell(observer, 301.0, [8, 7, 8])
    verdict = observer.judge(301.0)
    assert verdict is not None
    assert (verdict.exit_code, verdict.ranks) == (EXIT_LOST, [1])
    assert "all others wait for rank 1" in verdict.message


def test_when_all_stand_at_one_place_all_are_named(observer: Observer) -> None:
    tell(observer, 0.0, [8, 8, 8])
    tell(observer, 301.0, [8, 8, 8])
    verdict = observer.judge(301.0)
    assert verdict is not None
    assert verdict.ranks == [0, 1, 2]


def test_work_of_the_main_process_alone_may_take_longer(observer: Observer) -> None:
    tell(observer, 0.0, [8, 8, 8], busy=True)
    tell(observer, 1000.0, [8, 8, 8], busy=True)
    assert observer.judge(1000.0) is None
    tell(observer, 1801.0, [8, 8, 8], busy=True)
    assert observer.judge(1801.0) is not None


def test_a_process_that_fails_by_itself_gives_all_its_code(observer: Observer) -> None:
    tell(observer, 0.0, [8, 8, 8])
    observer.hear(2, sign(1, 8, failed=65), 1.0)
    verdict = observer.judge(1.0)
    assert verdict is not None
    assert (verdict.exit_code, verdict.message, verdict.ranks) == (65, "", [2])
