"""What a checkpoint remembers by the names of its parts, for any number of processes and from older ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.accounting.metrics import WindowSums
from pipeline.checkpoints.loading import Source
from pipeline.checkpoints.manifest import state_name
from pipeline.checkpoints.random_state import random_state
from pipeline.guidance.run import RunGuidance, sum_by_head
from pipeline.objectives.protocol import Stateful
from pipeline.processes.cluster import Cluster
from pipeline.training.state import collect_state, merge_states, restore_parts, seed_process
from tests.pipeline.guidance.test_run import UNEVEN, make_guidance

CPU = torch.device("cpu")
COUNTERS = (
    *("loss", "predicted", "correct", "tokens", "positions", "flops"),
    *("guidance_loss", "steps", "skipped_steps"),
)


class Part:
    """Something with a state: a number that all processes share, and their shares of a sum."""

    def __init__(self, name: str, number: int = 0, share: float = 0.0) -> None:
        self.name, self.number, self.share = name, number, torch.tensor([share, 2 * share])

    def state(self) -> dict[str, Any]:
        return {"number": self.number, "share": self.share}

    def restore(self, state: dict[str, Any]) -> None:
        self.number, self.share = state["number"], state["share"]


def place(rank: int, world_size: int) -> Cluster:
    return Cluster(rank, rank, world_size, CPU)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Source]:
    """Of one state per process, at step 40."""

    def write(states: list[dict[str, Any]]) -> Source:
        directory = tmp_path / "step-00000040"
        directory.mkdir(exist_ok=True)
        for rank, state in enumerate(states):
            torch.save(state, directory / state_name(rank))
        return Source(directory, None, len(states))

    return write


Write = Callable[[list[dict[str, Any]]], Source]


# By name


def test_a_state_has_the_parts_by_their_names() -> None:
    state = collect_state([Part("a", 1, 0.5), Part("b", 2)])

    assert state.keys() == {"random", "a", "b"}
    assert state["a"] == {"number": 1, "share": state["a"]["share"]}
    assert state["a"]["share"].tolist() == [0.5, 1.0]


def test_every_process_gets_its_own_state_back(checkpoint: Write) -> None:
    states, drawn = [], []
    for rank in range(3):
        seed_process(5, rank, 0)
        states.append(collect_state([Part("a", 7, rank), Part("b", 8, 10 + rank)]))
        drawn.append(torch.rand(4))
    source = checkpoint(states)

    for rank in range(3):
        a, b = Part("a"), Part("b")
        restore_parts([b, a], source, place(rank, 3), seed=5)  # their order does not matter

        assert (a.number, b.number) == (7, 8)
        assert (a.share.tolist(), b.share.tolist()) == ([rank, 2 * rank], [10 + rank, 20 + 2 * rank])
        assert torch.equal(torch.rand(4), drawn[rank])


def test_a_part_that_the_checkpoint_does_not_know_stays_as_it_is(checkpoint: Write) -> None:
    source = checkpoint([collect_state([Part("a", 7), Part("gone", 9)])])
    known, new = Part("a"), Part("new", 3, 0.25)

    restore_parts([new, known], source, place(0, 1), seed=5)

    assert (known.number, new.number, new.share.tolist()) == (7, 3, [0.25, 0.5])


# Another number of processes


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shares_are_merged_for_another_number_of_processes(checkpoint: Write, world_size: int) -> None:
    shares = [0.5, 1.5, 4.0]
    source = checkpoint([collect_state([Part("a", 7, share)]) for share in shares])

    parts = []
    for rank in range(world_size):
        parts.append(Part("a"))
        restore_parts([parts[-1]], source, place(rank, world_size), seed=5)

    assert [part.number for part in parts] == [7] * world_size
    assert sum(part.share for part in parts).tolist() == [6.0, 12.0]
    assert parts[0].share.tolist() == [6.0, 12.0]  # all on the main process


def test_generators_of_another_number_of_processes_are_seeded_alike_every_time(checkpoint: Write) -> None:
    source = checkpoint([collect_state([])] * 2)
    drawn = []
    for rank in (0, 1, 2, 0):
        torch.rand(rank + 1)
        restore_parts([], source, place(rank, 3), seed=5)
        drawn.append(torch.rand(4).tolist())

    assert drawn[0] == drawn[3]
    assert len(set(map(tuple, drawn[:3]))) == 3
    seed_process(5, 0, 40)  # from the step
    assert torch.rand(4).tolist() == drawn[0]


def test_tensors_are_summed_and_all_else_is_the_first_ones() -> None:
    states = [{"a": torch.tensor([1.0, rank]), "n": 4, "list": [1]} for rank in range(3)]

    merged = merge_states(states, is_main=True)

    assert (merged["a"].tolist(), merged["n"], merged["list"]) == ([3.0, 3.0], 4, [1])
    assert merge_states(states, is_main=False)["a"].tolist() == [0.0, 0.0]
    assert states[0]["a"].tolist() == [1.0, 0.0]


# Checkpoints of the version before


def by_place(guidance: RunGuidance, rank: int = 0) -> dict[str, Any]:
    """A process's state with counters by place and the formed step on top, as it was written then."""
    layers, heads = len(guidance.guide.allocation.layers), guidance.guide.allocation.num_heads
    by_head = torch.arange(3.0 * layers * heads, dtype=torch.float64).view(3, layers, heads)
    return {
        "random": random_state(),
        "window": {
            "counters": torch.arange(1.0, 10.0, dtype=torch.float64) * (rank + 1),
            "by_head": by_head * (rank + 1),
            "heads": guidance.guide.allocation.describe(),
            "digest": 1234,
        },
        "other": {"number": 3, "share": torch.ones(2)},
        "formed_step": 20,
    }


def restored(source: Source, guidance: RunGuidance, cluster: Cluster) -> tuple[WindowSums, Part]:
    window, other = WindowSums(CPU), Part("other")
    parts: list[Stateful] = [window, other, guidance]
    restore_parts(parts, source, cluster, seed=5)
    return window, other


def test_counters_by_place_restore_to_the_same_sums(checkpoint: Write) -> None:
    guidance, resumed = make_guidance(UNEVEN), make_guidance(UNEVEN)
    state = by_place(guidance)

    window, other = restored(checkpoint([state]), resumed, place(0, 1))

    assert window.digest == 1234
    assert other.number == 3
    assert resumed.formation.formed_step == 20
    totals = window.take(place(0, 1))
    assert {name: totals[name].item() for name in COUNTERS} == dict(zip(COUNTERS, range(1, 10)))
    heads = guidance.guide.allocation.describe()
    assert torch.equal(totals[sum_by_head("guidance", heads)], state["window"]["by_head"])
    assert len(totals) == 10
    line = resumed.line(39, totals)
    assert line["guidance_loss"] == 7 / 8
    assert line["guidance_error"]["next"] == (0 + 1 + 7) / (18 + 19 + 25)


def test_they_are_merged_for_another_number_of_processes(checkpoint: Write) -> None:
    resumed = make_guidance(UNEVEN)
    source = checkpoint([by_place(resumed, rank) for rank in range(2)])

    window, _ = restored(source, resumed, place(0, 1))

    assert resumed.formation.formed_step == 20
    totals = window.take(place(0, 1))
    assert [totals[name].item() for name in COUNTERS] == [3.0 * n for n in range(1, 10)]
    idle, _ = restored(source, make_guidance(UNEVEN), place(1, 3))
    assert all(not value.any() for value in idle.take(place(0, 1)).values())


@pytest.mark.parametrize(
    "table",
    [[{"next": 1}, {}, {}], [{"first": 1, "next": 2}, {}, {"next": 1, "first": 1}]],
    ids=["fewer", "moved"],
)
@pytest.mark.parametrize("is_old", [True, False], ids=["by place", "by name"])
def test_sums_and_formed_step_of_other_heads_are_dropped(
    checkpoint: Write, table: list[dict[str, int]], is_old: bool
) -> None:
    """After a change of heads that the user has accepted."""
    before, resumed = make_guidance(UNEVEN), make_guidance(table)
    state = by_place(before)
    if not is_old:
        before.formation.formed_step = 20
        window = WindowSums(CPU)
        window.add({name: float(n) for n, name in enumerate(COUNTERS, 1)})
        window.add({before._by_head: state["window"]["by_head"]})
        state = collect_state([window, Part("other", 3), before])

    window, _ = restored(checkpoint([state]), resumed, place(0, 1))

    assert resumed.formation.formed_step is None
    totals = window.take(place(0, 1))
    assert totals["tokens"] == 4
    assert set(resumed.line(39, totals)["guidance_error"].values()) == {None}
