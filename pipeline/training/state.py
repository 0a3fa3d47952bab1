"""The states of the processes of a run, put together for another number of processes."""

from typing import Any

import torch

from pipeline.checkpoints.loading import Source, read_state
from pipeline.checkpoints.random_state import restore_random_state
from pipeline.data.counter_rng import make_keys
from pipeline.processes.cluster import Cluster


def seed_process(seed: int, rank: int, step: int) -> None:
    """Seed what the process draws, which is dropout: rows and masks are drawn from their own keys."""
    torch.manual_seed(int(make_keys(seed, rank)[0] >> 1) + step)


def restore_state(source: Source, cluster: Cluster, seed: int) -> dict[str, Any]:
    """This process's state from a checkpoint, its random generators set.

    Of another number of processes there are no generators to go on with: they are seeded anew, from the step,
    so that a second start is the same.
    """
    if source.world_size == cluster.world_size:
        state = read_state(source, cluster.rank)
        restore_random_state(state["random"])
        return state
    seed_process(seed, cluster.rank, source.step)
    ranks = range(source.world_size) if cluster.is_main else range(1)
    states = [read_state(source, rank) for rank in ranks]
    return states[0] | {
        name: merge_windows([state[name] for state in states], cluster.is_main)
        for name in ("window", "row_losses")
    }


def merge_windows(windows: list[dict[str, Any]], is_main: bool) -> dict[str, Any]:
    """What was collected in a logging window, whose tensors are the processes' shares of sums.

    All of them go to the main process, and zeros to the others. What is no tensor is the same everywhere.
    """
    merged = dict(windows[0])
    for name, value in windows[0].items():
        if isinstance(value, torch.Tensor):
            summed = torch.stack([window[name] for window in windows]).sum(0)
            merged[name] = summed if is_main else torch.zeros_like(summed)
    return merged
