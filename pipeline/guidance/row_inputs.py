"""What `row_terms` is computed from: one list for the operator, its gradient and every implementation."""

from typing import NamedTuple

import torch


class RowInputs(NamedTuple):
    """Arguments of the operator `lodestar::row_terms`, in its order, as its implementations take them.

    The operator itself takes `first_row` as a tensor () in host memory, for a graph of torch.compile to serve
    steps with different ones, and at the end the number of rows to give: see row_terms.py.

    Attributes:
        query: of the guided heads, (B, H, N, D).
        key: the same.
        mask: None, bool (True = may attend) or additive, broadcastable to (B, 1, N, N).
        single: column of each row's target by pattern, -1 without one, (S, B, N), int32.
        columns: weight of each key by pattern, (C, B, N), float32.
        starts: first position of each row's document, (B, N), int32.
        ends: the position after its last, (B, N), int32.
        spans: None, or in place of a mask the first key of each row and the one after its last, (2, B, N),
            int32.
        first_row: first row looked at.
        pattern_of_head: for each head, its place among the S + C patterns.
        scaling: factor on the scores.
        keep: share of attention that dropout leaves, k of the formulas.
        form: "squared" or "cross_entropy".
        row_stride: distance of the rows looked at.
    """

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    single: torch.Tensor
    columns: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor
    spans: torch.Tensor | None
    first_row: int
    pattern_of_head: list[int]
    scaling: float
    keep: float
    form: str
    row_stride: int

    @property
    def num_rows(self) -> int:
        """Rows looked at, R."""
        return (self.query.shape[2] - self.first_row + self.row_stride - 1) // self.row_stride


# The same as torch's operators declare it.
SCHEMA = (
    "Tensor query, Tensor key, Tensor? mask, Tensor single, Tensor columns, Tensor starts, Tensor ends, "
    "Tensor? spans, Tensor first_row, SymInt[] pattern_of_head, float scaling, float keep, str form, "
    "SymInt row_stride, SymInt num_rows"
)
