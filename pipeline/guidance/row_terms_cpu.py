"""`row_terms` in blocks of rows: one block of scores at a time, small enough for the last-level cache.

Saturated rows keep their digits because everything is formed from what lies off the row's largest entry m:
with o = 1 - a_m, r = sum of a_j^2 and c = sum of a_j p_j, all three over j != m,

    de/ds_m = 2 a_m (o (a_m / k - p_m) - r / k + c)

where the general formula would subtract two numbers that agree to rounding.

Shapes: see row_terms.py; R here is the number of looked-at rows of a block. "Weights" are attention times
its row's sum, exp(s_ij - max_j s_ij).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pipeline.data.documents import keys_of_document
from pipeline.guidance.row_inputs import RowInputs
from pipeline.guidance.timer import CLOCK

_BLOCK_ELEMENTS = 1 << 20  # scores per block: 4 MiB in float32
LOWEST_SCORE = torch.finfo(torch.float32).min  # of a forbidden key


@dataclass(frozen=True)
class _Rows:
    """A block of looked-at rows: its place in the result and in the sequence."""

    block: slice
    places: slice


@dataclass(frozen=True)
class _Single:
    """One target column per row: `index` (B, 1, R, 1), 0 where `exists` (B, 1, R) is 0.0 instead of 1.0."""

    index: torch.Tensor
    exists: torch.Tensor


@dataclass(frozen=True)
class _Column:
    """Target distributions, the same for every head, (B, 1, R, N)."""

    probs: torch.Tensor


def forward(inputs: RowInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See row_terms._row_terms."""
    query, form = inputs.query, inputs.form
    with CLOCK.measure(query.device):
        errors = query.new_empty((*query.shape[:2], inputs.num_rows), dtype=torch.float32)
        mass, kept = torch.empty_like(errors), errors.new_zeros((3, *errors.shape))
        peak = errors.new_empty(errors.shape, dtype=torch.int32)
        for rows, scores in _score_blocks(inputs):
            # numpy's argmax is five times as fast as torch's on CPU.
            index = torch.from_numpy(scores.numpy().argmax(-1))[..., None]
            largest = scores.gather(-1, index)
            scores -= largest
            for pattern, heads in _runs(inputs.pattern_of_head):
                target = _target(pattern, inputs, rows.places)
                terms = (
                    _squared_terms(scores[:, heads], index[:, heads], target, inputs.keep)
                    if form == "squared"
                    else _cross_entropy_terms(scores[:, heads], target)
                )
                errors[:, heads, rows.block], mass[:, heads, rows.block] = terms[:2]
                for place, value in enumerate(terms[2:]):
                    kept[place, :, heads, rows.block] = value
            kept[0, :, :, rows.block] += largest[..., 0]
            if form == "cross_entropy":
                kept[1, :, :, rows.block] += largest[..., 0]
            peak[:, :, rows.block] = index[..., 0]
        return errors, mass, kept, peak


def backward(
    grad_errors: torch.Tensor,
    errors: torch.Tensor,
    kept: torch.Tensor,
    peak: torch.Tensor,
    inputs: RowInputs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See row_terms._row_terms_backward."""
    query, key = inputs.query, inputs.key
    with CLOCK.measure(query.device):
        row_weight = (inputs.scaling * grad_errors)[..., None]
        key_float = key.float()
        grad_query = torch.zeros(query.shape, dtype=torch.float32)
        grad_key = torch.zeros(key.shape, dtype=torch.float32)
        for rows, scores in _score_blocks(inputs):
            for pattern, heads in _runs(inputs.pattern_of_head):
                target = _target(pattern, inputs, rows.places)
                part, saved = scores[:, heads], kept[:, :, heads, rows.block, None]
                if inputs.form == "squared":
                    index = peak[:, heads, rows.block, None].long()
                    _squared_pull(part, index, saved, target, inputs.keep)
                else:
                    _cross_entropy_pull(part, errors[:, heads, rows.block, None], saved, target)
            weight = row_weight[:, :, rows.block]
            grad_query[:, :, rows.places] = (scores @ key_float) * weight
            grad_key += scores.transpose(-1, -2) @ (query[:, :, rows.places].float() * weight)
        return grad_query.to(query.dtype), grad_key.to(key.dtype)


def _score_blocks(inputs: RowInputs) -> Iterator[tuple[_Rows, torch.Tensor]]:
    """Yield blocks of rows and their scores (B, H, R, N) in float32.

    Forbidden keys get the lowest finite score: a padded row whose local window holds no real key has no
    valid target, but minus infinity throughout would make it NaN, and NaN times "not valid" too.
    """
    query, mask, first_row, row_stride = inputs.query, inputs.mask, inputs.first_row, inputs.row_stride
    batch, heads, length, _ = query.shape
    rows_per_block = max(16, _BLOCK_ELEMENTS // (batch * heads * length))
    key_transposed = inputs.key.float().transpose(-1, -2)
    for begin in range(0, inputs.num_rows, rows_per_block):
        end = min(begin + rows_per_block, inputs.num_rows)
        places = slice(first_row + begin * row_stride, first_row + (end - 1) * row_stride + 1, row_stride)
        scores = (query[:, :, places].float() * inputs.scaling) @ key_transposed
        if inputs.spans is not None:
            first_key, end_key = inputs.spans[:, :, places]
            allowed = keys_of_document(first_key, end_key, length)[:, None]
            scores.masked_fill_(~allowed, LOWEST_SCORE)
        if mask is not None:
            allowed = mask if mask.shape[-2] == 1 else mask[..., places, :]
            if allowed.dtype == torch.bool:
                scores.masked_fill_(~allowed, LOWEST_SCORE)
            else:
                scores.add_(allowed).clamp_(min=LOWEST_SCORE)
        yield _Rows(slice(begin, end), places), scores


def _runs(pattern_of_head: list[int]) -> Iterator[tuple[int, slice]]:
    """(pattern, its heads) for neighbouring heads with the same pattern."""
    first = 0
    for head in range(1, len(pattern_of_head) + 1):
        if head == len(pattern_of_head) or pattern_of_head[head] != pattern_of_head[first]:
            yield pattern_of_head[first], slice(first, head)
            first = head


def _target(pattern: int, inputs: RowInputs, places: slice) -> _Single | _Column:
    num_single = len(inputs.single)
    if pattern < num_single:
        column = inputs.single[pattern][:, None, places]
        return _Single(column.clamp(min=0).long()[..., None], (column >= 0).float())
    own = keys_of_document(inputs.starts[:, places], inputs.ends[:, places], inputs.columns.shape[-1])
    return _Column((inputs.columns[pattern - num_single][:, None] * own)[:, None])


def _square_sum(values: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(values, dim=-1).square_()


def _squared_terms(
    shifted: torch.Tensor, peak: torch.Tensor, target: _Single | _Column, keep: float
) -> tuple[torch.Tensor, ...]:
    """Error, mass, logsumexp, u and half the gradient at the peak over a_m, all (B, H, R).

    Args:
        shifted: scores less their row's maximum; destroyed.
        peak: column m of the maximum, (B, H, R, 1).
        target: of the rows.
        keep: k of the formula.
    """
    weights = shifted.exp_().scatter_(-1, peak, 0.0)  # the peak's is 1
    off = weights.sum(-1)
    total = 1.0 + off
    at_peak, off = 1.0 / total, off / total
    off_square = _square_sum(weights) / total.square()
    square = off_square + at_peak.square()
    if isinstance(target, _Single):
        index = target.index.expand(*weights.shape[:3], 1)
        target_at_peak = (index == peak)[..., 0] * target.exists
        product_off_peak = weights.gather(-1, index)[..., 0] * target.exists / total
        mass = product_off_peak + target_at_peak * at_peak
        spread_at_peak = torch.where(target_at_peak > 0, off, at_peak).square()
        errors = off_square + spread_at_peak + (target.exists - target_at_peak) - 2.0 * product_off_peak
    else:
        probs = weights.div_(total[..., None])
        target_at_peak = target.probs.expand_as(probs).gather(-1, peak)[..., 0]
        product_off_peak = torch.einsum("bhrn,brn->bhr", probs, target.probs[:, 0])
        mass = torch.einsum("bhrn,brn->bhr", probs, (target.probs[:, 0] > 0).float())
        mass += (target_at_peak > 0) * at_peak
        errors = _square_sum(probs.scatter_(-1, peak, at_peak[..., None]).sub_(target.probs))
    errors += square * (1.0 / keep - 1.0)
    lift = ((1.0 - keep * target_at_peak) - off) / keep  # a_m / k - p_m
    inner = off_square / keep - product_off_peak + at_peak * lift
    pull_at_peak = off * lift - off_square / keep + product_off_peak
    return errors, mass, total.log(), inner, pull_at_peak


def _squared_pull(
    scores: torch.Tensor, peak: torch.Tensor, saved: torch.Tensor, target: _Single | _Column, keep: float
) -> None:
    """Turn scores into the gradient of their row's error, in place.

    Args:
        scores: (B, H, R, N).
        peak: column of the maximum, (B, H, R, 1).
        saved: what `_squared_terms` gave to keep, (3, B, H, R, 1).
        target: of the rows.
        keep: k of the formula.
    """
    logsumexp, inner, pull_at_peak = saved
    probs = scores.sub_(logsumexp).exp_()
    difference = probs.mul(1.0 / keep).sub_(inner)
    if isinstance(target, _Single):
        difference.scatter_add_(-1, target.index.expand_as(peak), -target.exists[..., None].expand_as(inner))
    else:
        difference -= target.probs
    difference.scatter_(-1, peak, pull_at_peak)
    probs.mul_(difference).mul_(2.0)


def _cross_entropy_terms(shifted: torch.Tensor, target: _Single | _Column) -> tuple[torch.Tensor, ...]:
    """Error, mass and the logsumexps over all keys and over the targets; as `_squared_terms`."""
    if isinstance(target, _Column):
        is_target = target.probs > 0
        exists = is_target.any(-1).float()
        log_on = shifted.masked_fill(~is_target, -torch.inf).logsumexp(-1)
        off = (shifted.exp_() * ~is_target).sum(-1)
    else:
        exists, index = target.exists, target.index.expand(*shifted.shape[:3], 1)
        log_on = shifted.gather(-1, index)[..., 0]
        off = shifted.exp_().scatter_(-1, index, 0.0).sum(-1)
    on = log_on.exp()
    logsumexp = (on + off).log()
    # The first form keeps the digits of a small error, the second one those of a large one.
    errors = torch.where(off < on, (off / on).log1p(), logsumexp - log_on)
    without = exists == 0
    errors, log_on = errors.masked_fill(without, 0.0), torch.where(without, logsumexp, log_on)
    return errors, (log_on - logsumexp).exp().masked_fill(without, 0.0), logsumexp, log_on


def _cross_entropy_pull(
    scores: torch.Tensor, errors: torch.Tensor, saved: torch.Tensor, target: _Single | _Column
) -> None:
    """As `_squared_pull`; `errors` (B, H, R, 1)."""
    logsumexp, log_on, _ = saved
    if isinstance(target, _Column):
        # Masked first: a key off target may lie far above the targets, and infinity times zero is no number.
        on_share = (scores - log_on).masked_fill_(target.probs == 0, -torch.inf).exp_()
        off_target = scores.sub_(logsumexp).exp_().masked_fill_(target.probs > 0, 0.0)
        off_target.add_(on_share.mul_(torch.expm1(-errors)))  # expm1: m - 1
        return
    probs = scores.sub_(logsumexp).exp_()
    on = torch.expm1(-errors)  # a_t - 1
    exists, index = target.exists[..., None].bool(), target.index.expand(*probs.shape[:3], 1)
    probs.scatter_(-1, index, torch.where(exists, on, probs.gather(-1, index)))
