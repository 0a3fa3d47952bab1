"""What operators take for themselves on CPU while they run, beside what they are given and give back.

Those that join tensors value by value bring all to one type first, where a CUDA kernel does it on the way.
And there are the operators of this project, which nothing sees into.
"""

from functools import reduce
from typing import Any

import torch
from torch._ops import OpOverload

_BLOCK_ELEMENTS, _NUM_BLOCKS = 1 << 20, 4  # of float32 scores, which the guidance loss works on


def workspace_on_cpu(func: OpOverload, args: tuple[Any, ...]) -> int:
    """See Workspace."""
    if func.name() in _OF_OPERATORS:
        return _OF_OPERATORS[func.name()](args)
    return _copies_in_one_type(args) if torch.Tag.pointwise in func.tags else 0


def _copies_in_one_type(args: tuple[Any, ...]) -> int:
    """Copies of the narrower ones of some numbers."""
    given = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point() and a.ndim]
    if len({tensor.dtype for tensor in given}) < 2:
        return 0
    common = reduce(torch.promote_types, (tensor.dtype for tensor in given))
    return sum(tensor.numel() * common.itemsize for tensor in given if tensor.dtype != common)


def _of_row_terms(args: tuple[Any, ...]) -> int:
    """Blocks of scores; the key in float32."""
    query, key = args[:2]
    return _blocks(query) + _in_float32(key)


def _of_row_terms_backward(args: tuple[Any, ...]) -> int:
    """Blocks of scores; the key twice in float32, and both gradients."""
    query, key = args[4:6]
    return _blocks(query) + 3 * _in_float32(key) + _in_float32(query)


def _blocks(query: torch.Tensor) -> int:
    scores = query.shape[0] * query.shape[1] * query.shape[2] ** 2
    return 4 * _NUM_BLOCKS * min(_BLOCK_ELEMENTS, scores)


def _in_float32(tensor: torch.Tensor) -> int:
    """Bytes of a copy in float32; none of a tensor that is in it."""
    return 0 if tensor.dtype == torch.float32 else 4 * tensor.numel()


_OF_OPERATORS = {
    "lodestar::row_terms": _of_row_terms,
    "lodestar::row_terms_backward": _of_row_terms_backward,
}
