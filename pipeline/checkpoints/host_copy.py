"""A copy of nested state in host memory, which stays as it is while training goes on."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class HostCopy:
    """Copies state and reuses its memory for the next copy, which then costs no page faults."""

    def __init__(self) -> None:
        """No memory taken yet."""
        self._buffers: list[torch.Tensor] = []
        self._used = 0
        # The originals are kept as well, or a freed one's address could come again with other content.
        self._seen: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    @contextmanager
    def taking(self) -> Iterator[Callable[[Any], Any]]:
        """Gives a function that copies values; what was copied the time before is overwritten.

        A tensor that occurs twice (tied weights, aliases of one partition) is copied once.
        """
        self._used = 0
        yield self._copy
        del self._buffers[self._used :]
        self._seen.clear()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._copy_tensor(value.detach())
        if isinstance(value, dict):
            return type(value)((key, self._copy(item)) for key, item in value.items())
        if type(value) in (list, tuple):
            return type(value)(self._copy(item) for item in value)
        return copy.deepcopy(value)  # a loss scaler, a named tuple of offsets: small

    def _copy_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or key not in self._seen:
            self._seen[key] = tensor, self._next_buffer(tensor).copy_(tensor, non_blocking=True)
        return self._seen[key][1]

    def _next_buffer(self, tensor: torch.Tensor) -> torch.Tensor:
        place, self._used = self._used, self._used + 1
        if place < len(self._buffers):
            buffer = self._buffers[place]
            if buffer.shape == tensor.shape and buffer.dtype == tensor.dtype:
                return buffer
            del self._buffers[place:]
        # Memory that is not pinned would make every copy from the device wait for it.
        self._buffers.append(
            torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
        )
        return self._buffers[place]
