"""What operators of this project take for themselves on CPU while they run, beside what they give back."""

from typing import Any

import torch

# The guidance loss works on about four float32 blocks of 2^20 scores.
_BLOCKS_BYTES = 4 * (1 << 20) * 4


def _of_row_terms(args: tuple[Any, ...]) -> int:
    """Blocks of scores; the key in float32."""
    return _BLOCKS_BYTES + _in_float32(args[1])


def _of_row_terms_backward(args: tuple[Any, ...]) -> int:
    """Blocks of scores; the key twice in float32, and both gradients."""
    query, key = args[4:6]
    return _BLOCKS_BYTES + 3 * _in_float32(key) + _in_float32(query)


def _in_float32(tensor: torch.Tensor) -> int:
    """Bytes of a copy in float32; none of a tensor that is in it."""
    return 0 if tensor.dtype == torch.float32 else 4 * tensor.numel()


WORKSPACES = {
    "lodestar::row_terms": _of_row_terms,
    "lodestar::row_terms_backward": _of_row_terms_backward,
}
