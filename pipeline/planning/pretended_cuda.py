"""Fake tensors that say they are on a CUDA device, on a machine that need not have one.

torch can make fake tensors of a CUDA device anywhere, but autograd asks the device itself, and ends the
process of a build without CUDA. Here tensors are in host memory, and what would be otherwise on CUDA is done
as it is there:

    device      tensors answer "cuda" when they are asked; one of compute capability 9.0
    attention   a fused kernel: flash attention in half precision without a mask, else the efficient one
    dropout     one kernel, which keeps a mask of one byte per value

This is an approximation. torch chooses among fused kernels by the device as well (cuDNN's keeps what flash
attention keeps), and takes none for head sizes they do not support; cuBLAS has a workspace of its own; the
allocator rounds up to 512 bytes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_TRUE_DEVICE: Any = FakeTensor.device
_PRETENDED, _REAL = torch.device("cuda", 0), torch.device("cpu")
_CAPABILITY = (9, 0)


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """Fake tensors in host memory pretend to be on CUDA."""
    inside = _InsideTorch()
    capability = mock.patch.object(torch.cuda, "get_device_capability", return_value=_CAPABILITY)
    device = mock.patch.object(FakeTensor, "device", property(inside.device_of))
    with capability, device, inside, _PretendedCuda():
        yield


class _InsideTorch(TorchDispatchMode):
    """Tells apart who asks a fake tensor for its device: torch, which is told the truth, or a model."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator."""
        self._depth += 1
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._depth -= 1

    def device_of(self, tensor: FakeTensor) -> torch.device:
        """What the tensor answers."""
        return _TRUE_DEVICE.fget(tensor) if self._depth else _PRETENDED


class _PretendedCuda(TorchFunctionMode):
    """Stands between the calls of a model and torch."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer a call as on CUDA."""
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        kwargs = {key: _real_device(value) for key, value in (kwargs or {}).items()}
        return _ON_CUDA.get(func, func)(*map(_real_device, args), **kwargs)


def _real_device(value: Any) -> Any:
    """Where a tensor is made that is asked for on CUDA."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return _REAL
    return "cpu" if isinstance(value, str) and value.partition(":")[0] == "cuda" else value


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """As scaled_dot_product_attention on CUDA."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    if attn_mask is None and query.dtype != torch.float32:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = _additive(attn_mask, query.dtype).expand(*query.shape[:3], key.shape[2])
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, attn_mask, needs_grad, dropout_p, is_causal, scale=scale)[0]


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask as kernels take it; every call of the attention makes its own of one of bits."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), -torch.inf)


def _dropout(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """As functional.dropout on CUDA, whose names these are."""
    if not training or p == 0.0:
        return input
    return torch.native_dropout(input, p, True)[0]


_ON_CUDA: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _attention,
    F.dropout: _dropout,
}
