"""`row_terms` on CUDA: what the kernels of triton_kernels.py are given, and how they are launched.

Shapes: see row_terms.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
import triton

from pipeline.guidance.row_inputs import RowInputs
from pipeline.guidance.timer import CLOCK
from pipeline.guidance.triton_kernels import forward_kernel, grad_key_kernel, grad_query_kernel


class _Strided(NamedTuple):
    """A tensor as kernels take it, with its strides."""

    data: torch.Tensor
    strides: tuple[int, ...]


class _Problem(NamedTuple):
    """What all kernels read. Of rows, only those looked at are here: rows are numbered 0 to R - 1."""

    query: _Strided  # (B, H, R, D)
    key: _Strided  # (B, H, N, D)
    mask: _Strided | None  # (B, 1, R, N); stride 0 where it is broadcast
    single: torch.Tensor  # (S, B, R), like all that follow contiguous
    columns: torch.Tensor  # (C, B, N)
    starts: torch.Tensor  # (B, R)
    ends: torch.Tensor  # (B, R)
    spans: torch.Tensor | None  # (2, B, R)
    pattern_of_head: torch.Tensor  # (H,)
    num_single: int
    num_sequences: int
    num_heads: int
    num_rows: int
    num_keys: int
    head_size: int
    scaling: float
    inverse_keep: float


class _Saved(NamedTuple):
    """What the forward pass left, see row_terms.py, and the rows' gradients.

    These are given as `share` (B, H, R) of the `largest` (B, H, 1) of the pair: half precision holds a number
    up to 1, and not the 1e-7 of a row of a large batch.
    """

    errors: torch.Tensor
    kept: torch.Tensor
    peak: torch.Tensor
    share: torch.Tensor
    largest: torch.Tensor


def forward(inputs: RowInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See row_terms._row_terms."""
    query = inputs.query
    with _on_device_of(query):
        problem = _problem(inputs)
        errors = query.new_empty((*query.shape[:2], problem.num_rows), dtype=torch.float32)
        # Zeros, for "cross_entropy" has no use for the third kept number and the peak.
        mass, kept = torch.empty_like(errors), errors.new_zeros((3, *errors.shape))
        peak = torch.zeros_like(errors, dtype=torch.int32)
        _launch(forward_kernel, problem.num_rows, inputs.form, problem, errors, mass, kept, peak)
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
    with _on_device_of(query):
        problem = _problem(inputs)
        if problem.num_rows == 0:
            return query.new_zeros(query.shape), key.new_zeros(key.shape)
        every_row = problem.num_rows == problem.num_keys
        grad_query = (query.new_empty if every_row else query.new_zeros)(query.shape)
        grad_key = key.new_empty(key.shape)
        largest = grad_errors.abs().amax(-1, keepdim=True)
        share = grad_errors / largest.masked_fill(largest == 0, 1.0)
        saved = _Saved(errors, kept, peak, share.contiguous(), largest.contiguous())
        grad_rows = _strided(grad_query[:, :, inputs.first_row :: inputs.row_stride])
        _launch(grad_query_kernel, problem.num_rows, inputs.form, problem, saved, grad_rows)
        _launch(grad_key_kernel, problem.num_keys, inputs.form, problem, saved, _strided(grad_key))
        return grad_query, grad_key


@contextmanager
def _on_device_of(tensor: torch.Tensor) -> Iterator[None]:
    """Launch on the device of a tensor, and measure."""
    with torch.cuda.device_of(tensor), CLOCK.measure(tensor.device):
        yield


def _problem(inputs: RowInputs) -> _Problem:
    batch, heads, length, head_size = inputs.query.shape
    looked_at = slice(inputs.first_row, None, inputs.row_stride)
    query, mask = inputs.query[:, :, looked_at], inputs.mask
    if mask is not None:
        mask = mask.expand(batch, 1, length, length)[:, :, looked_at]
    return _Problem(
        query=_strided(query),
        key=_strided(inputs.key),
        mask=None if mask is None else _strided(mask),
        single=inputs.single[..., looked_at].contiguous(),
        columns=inputs.columns.contiguous(),
        starts=inputs.starts[:, looked_at].contiguous(),
        ends=inputs.ends[:, looked_at].contiguous(),
        spans=None if inputs.spans is None else inputs.spans[..., looked_at].contiguous(),
        pattern_of_head=_on_device(tuple(inputs.pattern_of_head), query.device),
        num_single=len(inputs.single),
        num_sequences=batch,
        num_heads=heads,
        num_rows=query.shape[2],
        num_keys=length,
        head_size=head_size,
        scaling=inputs.scaling,
        inverse_keep=1.0 / inputs.keep,
    )


def _strided(tensor: torch.Tensor) -> _Strided:
    return _Strided(tensor, tensor.stride())


@cache
def _on_device(numbers: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """A tensor of int32. Remembered, for the copy would make every step wait for the device."""
    return torch.tensor(numbers, dtype=torch.int32, device=device)


def _launch(kernel: Any, num_places: int, form: str, problem: _Problem, *arguments: Any) -> None:
    """Start one program for every pair and block of `num_places` rows or keys."""
    query, mask = problem.query.data, problem.mask
    block_d = max(16, triton.next_power_of_2(problem.head_size))  # tl.dot takes no smaller ones
    block, step, num_warps = _tile(block_d, query.dtype)
    kernel[triton.cdiv(num_places, block), problem.num_sequences * problem.num_heads](
        problem,
        *arguments,
        FORM=form,
        MASK=_kind_of_mask(problem),
        MASK_PER_ROW=mask is not None and mask.strides[2] != 0,
        BLOCK=block,
        STEP=step,
        BLOCK_D=block_d,
        num_warps=num_warps,
        num_stages=2,
    )


def _kind_of_mask(problem: _Problem) -> str:
    if problem.spans is not None:
        return "spans"
    if problem.mask is None:
        return "none"
    return "bool" if problem.mask.data.dtype == torch.bool else "additive"


def _tile(block_d: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Rows (or keys) of a program, keys (or rows) of a step of its loop, and warps.

    Chosen for what registers hold; fixed, so that all ranks and runs add in the same order.
    """
    if dtype == torch.float32:  # without tensor cores a thread holds whole vectors of both operands
        return 32, 32, 8 if block_d > 64 else 4
    return 64, 32, 4
