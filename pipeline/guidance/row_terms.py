"""The guidance error of every query row, as a custom operator: exact, O(N) memory, any device.

For query row i of a guided head, with scores s_i, attention a_i = softmax(s_i) and target p_i (Deshpande and
Narasimhan 2020, equation 3, per row):

    squared        e_i = sum_j a_ij^2 / k - 2 sum_j a_ij p_ij + sum_j p_ij^2
                   de_i/ds_ij = 2 a_ij ((a_ij / k - p_ij) - u_i),   u_i = sum_j a_ij (a_ij / k - p_ij)
    cross_entropy  e_i = -log m_i,  m_i = sum of a_ij over the keys with p_ij > 0
                   de_i/ds_ij = a_ij - [p_ij > 0] a_ij / m_i

k = 1 gives the squared distance of a_i and p_i. k = 1 - d is its mean over attention dropout of rate d with
rescaling, which the published code applies before its loss: E[(a b / k - p)^2] = a^2 / k - 2 a p + p^2 for
b ~ Bernoulli(k). The mean, rather than one draw, because a fused attention does not tell its draw.

The scores are computed twice, in the forward and in the backward pass, tile by tile; what is kept between is
five numbers per row. `row_terms_cpu` works on blocks of rows, `row_terms_triton` holds the CUDA kernels.
Being an operator with registered shapes and gradient, it does not break a graph of torch.compile.

Shapes: B sequences, H guided heads, N positions, D head size, R looked-at rows first_row + row_stride * r.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.guidance import row_terms_cpu
from pipeline.guidance.row_inputs import SCHEMA, RowInputs
from pipeline.guidance.row_terms_cpu import LOWEST_SCORE
from pipeline.guidance.targets import Targets

_NUM_TENSORS = RowInputs._fields.index("pattern_of_head")  # arguments of the operator, its first ones


@dataclass(frozen=True, kw_only=True)
class LossForm:
    """Which error, and for "squared" the share `keep` of attention that dropout leaves (1: no dropout)."""

    name: str = "squared"
    keep: float = 1.0


def row_terms(
    query: torch.Tensor,
    key: torch.Tensor,
    scaling: float,
    mask: torch.Tensor | None,
    targets: Targets,
    pattern_of_head: Sequence[int],
    form: LossForm,
    first_row: int | torch.Tensor = 0,
    row_stride: int = 1,
    spans: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Error and attention mass on target of every looked-at row.

    Args:
        query: of the guided heads, position encoding applied, (B, H, N, D).
        key: the same.
        scaling: factor on the scores.
        mask: None, bool (True = may attend) or additive, broadcastable to (B, 1, N, N).
        targets: of the micro-batch.
        pattern_of_head: for each head, its place among the targets' patterns.
        form: the error.
        first_row: first row looked at. A tensor () in host memory lets one compiled graph serve any of them:
            R is then the same for all, ceil(N / row_stride), and a row beyond the last has zeros.
        row_stride: distance of the rows looked at.
        spans: None, or in place of a mask the keys each row attends to, (2, B, N), int32: the first one and
            the one after the last. This takes O(N) memory where a mask takes O(N^2).

    Returns:
        errors (B, H, R), float32, differentiable with respect to query and key, and mass (B, H, R), float32,
        not differentiable: attention on the keys with p_ij > 0. Rows without a target have finite values
        that mean nothing, except under `Targets` made as published, where p_i = 0 is a target.
    """
    assert mask is None or spans is None
    left = query.shape[2] - first_row if isinstance(first_row, int) else query.shape[2]
    errors, mass, *_ = _row_terms(
        query,
        key,
        mask,
        targets.single,
        targets.columns,
        targets.documents.starts,
        targets.documents.ends,
        spans,
        torch.as_tensor(first_row),
        list(pattern_of_head),
        scaling,
        form.keep,
        form.name,
        row_stride,
        max(0, (left + row_stride - 1) // row_stride),
    )
    return errors, mass


def _split(inputs: Sequence[Any]) -> tuple[RowInputs, int]:
    """The operator's arguments for an implementation, and the number of rows to give."""
    *of_rows, num_rows = inputs
    found = RowInputs(*of_rows)
    return found._replace(first_row=int(found.first_row)), num_rows


def _fill_up(values: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Values of rows (..., R) with zeros for the rows beyond the last."""
    missing = num_rows - values.shape[-1]
    return torch.nn.functional.pad(values, (0, missing)) if missing else values


@torch.library.custom_op(
    "lodestar::row_terms", mutates_args=(), schema=f"({SCHEMA}) -> (Tensor, Tensor, Tensor, Tensor)"
)
def _row_terms(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Errors and mass, (B, H, R), and what the backward pass needs.

    That is (3, B, H, R), float32: the row's logsumexp; u, or the logsumexp over the row's targets; and, for
    "squared", half the gradient at the row's largest score over its attention. And the column of that score,
    (B, H, R), int32.
    """
    of_rows, num_rows = _split(inputs)
    errors, mass, kept, peak = _implementation(of_rows.query).forward(of_rows)
    return (
        _fill_up(errors, num_rows),
        _fill_up(mass, num_rows),
        _fill_up(kept, num_rows),
        _fill_up(peak, num_rows),
    )


@torch.library.custom_op(
    "lodestar::row_terms_backward",
    mutates_args=(),
    schema=f"(Tensor grad_errors, Tensor errors, Tensor kept, Tensor peak, {SCHEMA}) -> (Tensor, Tensor)",
)
def _row_terms_backward(
    grad_errors: torch.Tensor, errors: torch.Tensor, kept: torch.Tensor, peak: torch.Tensor, *inputs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of query and key, (B, H, N, D), in their types."""
    of_rows, num_rows = _split(inputs)
    of_all = [grad_errors, errors, kept, peak]
    if of_rows.num_rows < num_rows:
        of_all = [values[..., : of_rows.num_rows].contiguous() for values in of_all]
    return _implementation(of_rows.query).backward(*of_all, of_rows)


def _implementation(query: torch.Tensor) -> Any:
    if query.device.type == "cpu":
        return row_terms_cpu
    from pipeline.guidance import row_terms_triton

    return row_terms_triton


@_row_terms.register_fake
def _(*inputs: Any) -> tuple[torch.Tensor, ...]:
    query, num_rows = inputs[0], inputs[-1]
    shape = (*query.shape[:2], num_rows)
    values = [query.new_empty(s, dtype=torch.float32) for s in (shape, shape, (3, *shape))]
    return *values, query.new_empty(shape, dtype=torch.int32)


@_row_terms_backward.register_fake
def _(
    _grad_errors: torch.Tensor, _errors: torch.Tensor, _kept: torch.Tensor, _peak: torch.Tensor, *inputs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    query, key = inputs[:2]
    return query.new_empty(query.shape), key.new_empty(key.shape)


def _keep_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    tensors, ctx.settings = inputs[:_NUM_TENSORS], inputs[_NUM_TENSORS:]
    errors, mass, kept, peak = output
    ctx.mark_non_differentiable(mass, kept, peak)
    ctx.save_for_backward(errors, kept, peak, *tensors)


def _differentiate(ctx: Any, grad_errors: torch.Tensor, *_other: Any) -> tuple:
    errors, kept, *rest = ctx.saved_tensors
    # A row that may attend to nothing has nothing to learn; its lowest scores are all that its logsumexp can
    # hold, so its attention could not be made anew from it.
    grad_errors = grad_errors.masked_fill(kept[0] <= LOWEST_SCORE / 2, 0.0)
    grad_query, grad_key = _row_terms_backward(grad_errors, errors, kept, *rest, *ctx.settings)
    return grad_query, grad_key, *[None] * (_NUM_TENSORS + len(ctx.settings) - 2)


_row_terms.register_autograd(_differentiate, setup_context=_keep_for_backward)
