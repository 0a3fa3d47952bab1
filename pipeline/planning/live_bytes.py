"""Counts the bytes of tensors that exist while some code runs, operation by operation.

What counts is storages: a view takes nothing, and what existed before is nobody's here. On fake tensors the
bytes are those that real ones would have.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# Bytes that an operator with these arguments takes while it runs, beside arguments and results.
Workspace = Callable[[OpOverload, tuple[Any, ...]], int]


def no_workspace(_func: OpOverload, _args: tuple[Any, ...]) -> int:
    """Nothing, for all operators."""
    return 0


class LiveBytes(TorchDispatchMode):
    """While it is entered, `now` is the bytes of all storages made under it, `peak` the most there have been.

    A storage is counted from the end of the operation that makes it until nothing refers to it.
    """

    def __init__(self, workspace: Workspace = no_workspace) -> None:
        """See Workspace."""
        super().__init__()
        self.now = 0
        self.peak = 0
        self._workspace = workspace
        self._known: set[int] = set()  # addresses of the storages that are counted

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage._cdata not in given and storage._cdata not in self._known:
                self._count(storage)
        self.peak = max(self.peak, self.now + self._workspace(func, args))
        return result

    def begin_peak(self) -> int:
        """The peak until now; the next one begins at what is there."""
        peak, self.peak = self.peak, self.now
        return peak

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, num_bytes = storage._cdata, storage.nbytes()
        self.now += num_bytes
        self._known.add(address)
        # torch keeps a storage's Python object as long as anything, a graph of autograd too, has the storage.
        weakref.finalize(storage, self._discount, address, num_bytes).atexit = False

    def _discount(self, address: int, num_bytes: int) -> None:
        self.now -= num_bytes
        self._known.discard(address)


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (value.untyped_storage() for value in tree_iter(values) if isinstance(value, torch.Tensor))
