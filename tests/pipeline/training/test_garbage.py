import gc
import weakref
from collections.abc import Iterator

import pytest

from pipeline.training.garbage import EVERY_STEPS, GarbageCollection


class Node:
    """Refers to itself, so that only a collection ends it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Whatever a test leaves, the next one begins with the automatic collector."""
    yield
    gc.unfreeze()
    gc.enable()


@pytest.fixture
def collected() -> Iterator[list[int]]:
    """Generations collected so far."""
    generations: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            generations.append(info["generation"])

    gc.callbacks.append(note)
    yield generations
    gc.callbacks.remove(note)


def test_cycles_do_not_pile_up() -> None:
    alive: weakref.WeakSet[Node] = weakref.WeakSet()
    most = 0
    with GarbageCollection() as garbage:
        for step in range(1, 10 * EVERY_STEPS + 1):
            alive.add(Node())
            garbage.collect_young(step)
            most = max(most, len(alive))
    assert most <= EVERY_STEPS


def test_nothing_is_collected_but_on_schedule(collected: list[int]) -> None:
    """The automatic collector starts after a few hundred objects."""
    with GarbageCollection() as garbage:
        collected.clear()
        kept = [[] for _ in range(100_000)]
        assert collected == []
        for step in range(1, 3 * EVERY_STEPS):
            garbage.collect_young(step)
        assert collected == [1, 1]
        garbage.collect_all()
        assert collected == [1, 1, 2]
    assert len(kept) == 100_000


def test_what_lives_through_young_collections_ends_with_all() -> None:
    with GarbageCollection() as garbage:
        node = Node()
        alive = weakref.ref(node)
        for step in (EVERY_STEPS, 2 * EVERY_STEPS, 3 * EVERY_STEPS):
            garbage.collect_young(step)
        del node
        garbage.collect_all()
        assert alive() is None


@pytest.mark.parametrize("was_enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_collector_is_as_before_afterwards(was_enabled: bool, fails: bool) -> None:
    (gc.enable if was_enabled else gc.disable)()
    with pytest.raises(ZeroDivisionError) if fails else pytest.MonkeyPatch.context(), GarbageCollection():
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        assert fails is False or 1 / 0
    assert gc.isenabled() is was_enabled
    assert gc.get_freeze_count() == 0
