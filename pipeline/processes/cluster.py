"""Processes: who we are, one group for all, and what all must agree on."""

import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pipeline.errors import UsageError, UserError, exit_code_of
from pipeline.processes.exchanges import EXCHANGES

_TIMEOUT = timedelta(minutes=30)  # of a collective; see recovery.hang_seconds of a recipe
_POLL = timedelta(seconds=10)
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")
_T = TypeVar("_T")


class ToldElsewhereError(UserError):
    """Raised on the other processes when the main process reports a UserError: ends them without a word."""

    is_told_to_all = True

    def __init__(self, exit_code: int) -> None:
        """End with the main process's exit code."""
        super().__init__("")
        self.exit_code = exit_code


@dataclass
class Cluster:
    """This process's place among the run's processes, and how they talk.

    Attributes:
        rank: of this process.
        local_rank: among those of this machine.
        world_size: number of processes.
        device: this process's.
        is_busy: this is the main process, and all others wait for what it does (see `on_main`).
    """

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    is_busy: bool = False
    _calls: Iterator[int] = field(default_factory=itertools.count)

    @staticmethod
    def single() -> "Cluster":
        """This process alone, whatever launcher started it: for commands that do not train."""
        return Cluster(0, 0, 1, _device(0))

    @staticmethod
    def from_environment() -> "Cluster":
        """Read the launcher's environment (torchrun, deepspeed); without one, a run of one process.

        Raises:
            UsageError: only part of it is set, or a number is none.
        """
        if not {"RANK", "WORLD_SIZE"} & os.environ.keys():
            return Cluster.single()
        needed = [name for name in LAUNCHER_VARIABLES if name != "LOCAL_RANK"]
        if missing := [name for name in needed if name not in os.environ]:
            raise UsageError(
                f"the environment sets RANK or WORLD_SIZE but not {', '.join(missing)}; "
                "use a launcher, or unset them"
            )
        try:
            rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            local_rank = int(os.environ.get("LOCAL_RANK", 0))
        except ValueError as error:
            raise UsageError(f"RANK, LOCAL_RANK and WORLD_SIZE must be integers: {error}") from error
        return Cluster(rank, local_rank, world_size, _device(local_rank))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes logs and publishes checkpoints."""
        return self.rank == 0

    def start(self) -> None:
        """Join the process group through DeepSpeed.

        Tensors on CUDA go over NCCL, tensors in host memory over gloo: counts, flags and verdicts are
        agreed on without waiting for the device.
        """
        import deepspeed

        if "RANK" not in os.environ:
            os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        on_cuda = self.device.type == "cuda"
        num_devices = torch.cuda.device_count() if on_cuda else 0
        has_device = not on_cuda or self.local_rank < num_devices
        if on_cuda and has_device:
            torch.cuda.set_device(self.device)
        elif not on_cuda:
            # DeepSpeed would compile a shared-memory all-reduce at the first start, and wait forever for
            # the lock of a compilation that was killed. gloo needs neither.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
        deepspeed.init_distributed(backend, auto_mpi_discovery=False, timeout=_TIMEOUT, verbose=False)
        if not on_cuda:
            EXCHANGES.watch(deepspeed.comm.comm.cdb)
        self._check_devices(has_device, num_devices)

    def _check_devices(self, has_device: bool, num_devices: int) -> None:
        """All processes end together if one has no GPU: alone, it would leave the rest waiting for it."""
        if self.sum(torch.tensor([float(has_device)])).item() == self.world_size:
            return
        if has_device:
            raise ToldElsewhereError(UsageError.exit_code)
        raise UsageError(
            f"process {self.local_rank} of this machine has no GPU: there are {num_devices}; "
            "start at most one process per GPU"
        )

    def stop(self) -> None:
        """Leave the process group, if one was joined."""
        if dist.is_initialized():
            dist.destroy_process_group()
        if self.world_size == 1:  # what start() set for want of a launcher
            for name in LAUNCHER_VARIABLES:
                os.environ.pop(name, None)

    def on_main(self, action: Callable[[], _T]) -> _T:
        """Run `action` on the main process and give its result to all.

        The action may take longer than a collective would wait. An error is raised on every process (the
        others' has no message): one that failed alone would leave the rest waiting.
        """
        if self.world_size == 1:
            return action()
        outcome: list[Any] = [None, None]
        failure: Exception | None = None
        done = f"lodestar/on_main/{next(self._calls)}"
        store = dist.distributed_c10d._get_default_store()
        if self.is_main:
            self.is_busy = True
            try:
                outcome[0] = action()
            except Exception as error:  # the others must not wait for what will never come
                failure, outcome[1] = error, exit_code_of(error)
            self.is_busy = False
            store.set(done, "")
        else:
            _wait_for(store, done)
        with EXCHANGES.measure():
            dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
        if failure is not None:
            failure.is_told_to_all = True  # type: ignore[attr-defined]
            raise failure
        if outcome[1] is not None:
            raise ToldElsewhereError(outcome[1])
        return outcome[0]

    def connect_store(self, name: str) -> dist.Store:
        """A connection of its own to the store that the process group was made with, for another thread."""
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=_POLL)
        # A launcher that restarts the processes keeps its store.
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return dist.PrefixStore(f"lodestar/{name}/{restart}", store)

    def gather(self, value: _T) -> list[_T]:
        """Every process's value, in rank order, on every process."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        with EXCHANGES.measure():
            dist.all_gather_object(gathered, value)
        return gathered

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The tensor summed over all processes, in place; in host memory this does not touch the device."""
        if self.world_size > 1:
            with EXCHANGES.measure():
                dist.all_reduce(values)
        return values


def _wait_for(store: dist.Store, key: str) -> None:
    """Wait for a key without end: a main process that died is noticed elsewhere."""
    while True:
        with contextlib.suppress(dist.DistStoreError):
            store.wait([key], _POLL)
            return


def _device(local_rank: int) -> torch.device:
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
