"""What the processes of a run must remember, by name, and put together for another number of them."""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.accounting.metrics import window_of_version_1
from pipeline.checkpoints.loading import Source, read_state
from pipeline.checkpoints.random_state import random_state, restore_random_state
from pipeline.data.counter_rng import make_keys
from pipeline.guidance.run import sum_by_head
from pipeline.objectives.protocol import Stateful
from pipeline.processes.cluster import Cluster

_RANDOM = "random"


def seed_process(seed: int, rank: int, step: int) -> None:
    """Seed what the process draws, which is dropout: rows and masks are drawn from their own keys."""
    torch.manual_seed(int(make_keys(seed, rank)[0] >> 1) + step)


def collect_state(parts: Sequence[Stateful]) -> dict[str, Any]:
    """This process's part of a checkpoint, by the names of `parts`."""
    return {_RANDOM: random_state(), **{part.name: part.state() for part in parts}}


def restore_parts(parts: Sequence[Stateful], source: Source, cluster: Cluster, seed: int) -> None:
    """Set the parts and the random generators of this process from a checkpoint.

    A part that the checkpoint does not know, because the recipe has it anew, stays as it is. Of another
    number of processes there are no generators to go on with: they are seeded anew, from the step, so that a
    second start is the same.
    """
    if source.world_size == cluster.world_size:
        state = _of_this_version(read_state(source, cluster.rank))
        restore_random_state(state[_RANDOM])
    else:
        seed_process(seed, cluster.rank, source.step)
        ranks = range(source.world_size) if cluster.is_main else range(1)
        states = [_of_this_version(read_state(source, rank)) for rank in ranks]
        state = {
            name: merge_states([one[name] for one in states], cluster.is_main)
            for name in states[0]
            if name != _RANDOM
        }
    for part in parts:
        if part.name in state:
            part.restore(state[part.name])


def merge_states(states: list[dict[str, Any]], is_main: bool) -> dict[str, Any]:
    """A part's state of several processes, whose tensors are their shares of sums.

    All of them go to the main process, and zeros to the others. What is no tensor is the same everywhere.
    """
    merged = dict(states[0])
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor):
            summed = torch.stack([state[name] for state in states]).sum(0)
            merged[name] = summed if is_main else torch.zeros_like(summed)
    return merged


def _of_this_version(state: dict[str, Any]) -> dict[str, Any]:
    """A process's state; one from before parts had names is converted."""
    if "formed_step" not in state:
        return state
    converted = {name: part for name, part in state.items() if name != "formed_step"}
    heads = state["window"]["heads"]
    converted["guidance"] = {"formed_step": state["formed_step"], "heads": heads}
    converted["window"] = window_of_version_1(state["window"], sum_by_head("guidance", heads))
    return converted
