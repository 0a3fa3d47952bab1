"""The exact guidance error of a layer, in O(n) memory, beside whatever kernel computes the attention.

For query row i of a guided head, with attention a_i = softmax(s_i) and target p_i (design notes in the
README; the published loss is Deshpande and Narasimhan 2020, equation 3, as a squared error):

    e_i = sum_j (a_ij - p_ij)^2
    d e_i / d s_ij = 2 a_ij ((a_ij - p_ij) - u_i),   u_i = sum_j a_ij (a_ij - p_ij)

Both passes go through the scores in blocks of rows, so no n x n matrix outlives a block; what is kept for
the backward pass is one number per row, u_i. Differences are formed before they are squared or summed, so
saturated rows lose no digits.

Shapes: B sequences, H guided heads, N positions, D head size, R rows of a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pipeline.guidance.patterns import PatternHeads
from pipeline.guidance.timer import Timer

_BLOCK_ELEMENTS = 1 << 20  # scores per block: 4 MiB in float32, inside the last-level cache


@dataclass(frozen=True, kw_only=True)
class LayerAttention:
    """What a layer's attention is computed from.

    Attributes:
        query: (B, H, N, D), position encoding applied.
        key: (B, H, N, D).
        scaling: factor on the scores.
        mask: None, bool (True = may attend) or additive, broadcastable to (B, 1, N, N).
        lengths: real tokens per sequence, (B,).
    """

    query: torch.Tensor
    key: torch.Tensor
    scaling: float
    mask: torch.Tensor | None
    lengths: torch.Tensor


def row_errors(
    attention: LayerAttention, groups: Sequence[PatternHeads], timer: Timer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error and attention mass on target, summed over the valid rows of the batch.

    Args:
        attention: query and key of the guided heads only, head 0 of them being head 0 of the layer.
        groups: the patterns; their heads are contiguous from 0.
        timer: collects the time spent here, forward and backward.

    Returns:
        errors (H,), float32, differentiable with respect to query and key, and mass (H,), float32, not.
    """
    return _RowErrors.apply(attention.query, attention.key, attention, tuple(groups), timer)


class _RowErrors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        attention: LayerAttention,
        groups: tuple[PatternHeads, ...],
        timer: Timer,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scaling, mask = attention.scaling, attention.mask
        with timer:
            per_row = query.new_empty(query.shape[:3], dtype=torch.float32)
            inner, mass = torch.empty_like(per_row), torch.empty_like(per_row)
            for first, end, probs in _probability_blocks(query, key, scaling, mask):
                mass[:, :, first:end] = _on_target(probs, groups, first)
                difference = _subtract_targets(probs.clone(), groups, first)
                inner[:, :, first:end] = torch.einsum("bhrn,bhrn->bhr", probs, difference)
                per_row[:, :, first:end] = torch.einsum("bhrn,bhrn->bhr", difference, difference)
            valid = valid_rows(attention.lengths, groups, query.shape[2])
            ctx.save_for_backward(query, key, inner, valid)
            # Not `attention` itself: it would keep query and key alive beyond the backward pass.
            ctx.scaling, ctx.mask, ctx.groups, ctx.timer = scaling, mask, groups, timer
            errors = torch.einsum("bhn,bhn->h", per_row, valid)
            masses = torch.einsum("bhn,bhn->h", mass, valid)
        ctx.mark_non_differentiable(masses)
        return errors, masses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_errors: torch.Tensor, _grad_masses: torch.Tensor) -> tuple:
        query, key, inner, valid = ctx.saved_tensors
        with ctx.timer:
            row_weight = 2.0 * ctx.scaling * grad_errors[None, :, None] * valid
            key_float = key.float()
            grad_query = torch.empty_like(query, dtype=torch.float32)
            grad_key = torch.zeros_like(key, dtype=torch.float32)
            for first, end, probs in _probability_blocks(query, key, ctx.scaling, ctx.mask):
                grad_scores = _subtract_targets(probs.clone(), ctx.groups, first)
                grad_scores -= inner[:, :, first:end, None]
                grad_scores *= probs
                grad_scores *= row_weight[:, :, first:end, None]
                grad_query[:, :, first:end] = grad_scores @ key_float
                grad_key += grad_scores.transpose(-1, -2) @ query[:, :, first:end].float()
        return grad_query.to(query.dtype), grad_key.to(key.dtype), None, None, None


def valid_rows(lengths: torch.Tensor, groups: Sequence[PatternHeads], num_rows: int) -> torch.Tensor:
    """1.0 where a head's row has a target, else 0.0: float32 (B, H, N)."""
    by_head = []
    for group in groups:
        valid = group.pattern.valid_rows(lengths, num_rows).float()
        by_head += [valid] * (group.end_head - group.first_head)
    return torch.stack(by_head, dim=1)


def _probability_blocks(
    query: torch.Tensor, key: torch.Tensor, scaling: float, mask: torch.Tensor | None
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield (first row, end row, attention probabilities (B, H, R, N) in float32).

    Forbidden keys get the lowest finite score: a padded row whose local window holds no real key has no
    valid target, but minus infinity throughout would make it NaN, and NaN times "not valid" too.
    """
    lowest = torch.finfo(torch.float32).min
    batch, heads, length, _ = query.shape
    rows_per_block = max(16, _BLOCK_ELEMENTS // (batch * heads * length))
    key_transposed = key.float().transpose(-1, -2)
    for first in range(0, length, rows_per_block):
        end = min(first + rows_per_block, length)
        scores = (query[:, :, first:end].float() * scaling) @ key_transposed
        if mask is not None:
            rows = mask if mask.shape[-2] == 1 else mask[..., first:end, :]
            if rows.dtype == torch.bool:
                scores.masked_fill_(~rows, lowest)
            else:
                scores.add_(rows).clamp_(min=lowest)
        yield first, end, torch.softmax(scores, dim=-1)


def _on_target(probs: torch.Tensor, groups: Sequence[PatternHeads], first_row: int) -> torch.Tensor:
    parts = [g.pattern.on_target(probs[:, g.first_head : g.end_head], first_row) for g in groups]
    return torch.cat(parts, dim=1)


def _subtract_targets(block: torch.Tensor, groups: Sequence[PatternHeads], first_row: int) -> torch.Tensor:
    for group in groups:
        group.pattern.subtract(block[:, group.first_head : group.end_head], first_row)
    return block
