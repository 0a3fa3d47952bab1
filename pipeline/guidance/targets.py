"""Targets of a micro-batch: what every query row should look at, for each pattern.

Two shapes serve all patterns. A *single* target is one key per row (next, previous, offset, first, last,
random); a *column* target gives every key a weight, and a row's distribution is the weights of its own
document's keys (delimiters, sentence ends). Neither needs anything of size N x N.

Targets never leave a row's document: "next" of a document's last token and "delimiters" of a document
without any have none, and such rows, like padding, are left out of the loss. `as_published` keeps every row
and knows no documents, padding or shares, as in the authors' code.

Shapes: B sequences, N positions, S single and C column patterns, P = S + C.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from pipeline.data.batches import Batch
from pipeline.data.counter_rng import make_keys, random_bits
from pipeline.data.documents import Documents
from pipeline.guidance.patterns import EndPattern, Pattern, RandomPattern, SinglePattern, TokenPattern

NO_TARGET = -1
_RANDOM_STREAM = 0x72616E64  # keeps these draws independent of masks and row order


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Targets of the patterns, single ones first.

    Attributes:
        single: column of each row's target, NO_TARGET without one, (S, B, N), int32.
        columns: weight of each key, (C, B, N), float32.
        documents: a row's column target is made of the keys of its own document.
        valid: rows that count, (P, B, N), bool.
    """

    single: torch.Tensor
    columns: torch.Tensor
    documents: Documents
    valid: torch.Tensor

    def count_valid(self) -> torch.Tensor:
        """Rows that count, per pattern, (P,), float64."""
        return self.valid.sum((1, 2)).double()

    def columns_of_batch(self, name: str) -> dict[str, torch.Tensor]:
        """As columns of a batch, which moves them to its device; their names begin with `name`."""
        return {f"{name}/{field}": getattr(self, field) for field in ("single", "columns", "valid")}

    @staticmethod
    def of_batch(batch: Batch, name: str, *, as_published: bool) -> "Targets | None":
        """Inverse of `columns_of_batch`, for the batch's documents; None where there are none."""
        if f"{name}/single" not in batch.columns:
            return None
        documents = _whole_rows(batch.documents) if as_published else batch.documents
        single, columns, valid = (batch.columns[f"{name}/{of}"] for of in ("single", "columns", "valid"))
        return Targets(single=single, columns=columns, documents=documents, valid=valid)

    def to(self, device: torch.device) -> "Targets":
        """The same targets on `device`."""
        return Targets(
            single=self.single.to(device, non_blocking=True),
            columns=self.columns.to(device, non_blocking=True),
            documents=self.documents.to(device),
            valid=self.valid.to(device, non_blocking=True),
        )


def in_canonical_order(patterns: Sequence[Pattern]) -> list[Pattern]:
    """Without repetitions, single-target patterns first, otherwise as given."""
    distinct = list(dict.fromkeys(patterns))
    return sorted(distinct, key=lambda pattern: isinstance(pattern, TokenPattern))


def make_targets(
    patterns: Sequence[Pattern], token_ids: torch.Tensor, documents: Documents, as_published: bool
) -> Targets:
    """Targets of a micro-batch.

    Args:
        patterns: in canonical order.
        token_ids: uncorrupted tokens, (B, N).
        documents: of the same positions.
        as_published: the authors' conventions, see above.
    """
    is_filler = documents.ends.amax(1, keepdim=True) == 0  # no token at all: it only fills up a batch
    if as_published:
        documents = _whole_rows(documents)
    single, columns, valid = [], [], []
    for pattern in patterns:
        if isinstance(pattern, TokenPattern):
            weights, has_target = _column_weights(pattern, token_ids, documents, shared=not as_published)
            columns.append(weights)
        else:
            target = _single_target(pattern, documents)
            has_target = target != NO_TARGET
            single.append(target)
        valid.append(~is_filler.expand_as(has_target) if as_published else has_target)
    shape = token_ids.shape
    return Targets(
        single=torch.stack(single) if single else documents.starts.new_zeros((0, *shape)),
        columns=torch.stack(columns) if columns else torch.zeros((0, *shape), device=token_ids.device),
        documents=documents,
        valid=torch.stack(valid) if valid else torch.zeros((0, *shape), dtype=torch.bool),
    )


def _whole_rows(documents: Documents) -> Documents:
    """One document per row, its padding included."""
    ends = torch.full_like(documents.ends, documents.ends.shape[1])
    return Documents(starts=torch.zeros_like(documents.starts), ends=ends)


def _single_target(pattern: SinglePattern, documents: Documents) -> torch.Tensor:
    starts, ends = documents.starts, documents.ends
    if isinstance(pattern, EndPattern):
        target = ends - 1 if pattern.last else starts
    elif isinstance(pattern, RandomPattern):
        target = _random_keys(pattern.number, starts.shape[1]).to(starts).expand_as(starts)
    else:
        rows = torch.arange(starts.shape[1], device=starts.device, dtype=starts.dtype)
        target = (rows + pattern.offset).expand_as(starts)
    inside = (target >= starts) & (target < ends)
    return torch.where(inside, target, NO_TARGET)


@lru_cache(maxsize=64)
def _random_keys(number: int, num_positions: int) -> torch.Tensor:
    """A key for every position, (N,): what RandomPattern means."""
    draws = random_bits(make_keys(_RANDOM_STREAM, number), num_positions)[0]
    return torch.from_numpy((draws % np.uint64(num_positions)).astype(np.int32))


def _column_weights(
    pattern: TokenPattern, token_ids: torch.Tensor, documents: Documents, shared: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the keys, and which rows have a target; `shared`: a row's weights sum to one."""
    starts, ends = documents.starts.long(), documents.ends.long()
    members = torch.tensor(pattern.token_ids, device=token_ids.device, dtype=token_ids.dtype)
    chosen = torch.isin(token_ids, members) & (ends > starts)
    before = torch.nn.functional.pad(chosen.long().cumsum(1), (1, 0))  # chosen keys left of each position
    count = before.gather(1, ends) - before.gather(1, starts)  # in the position's own document
    weights = chosen.float() / count.clamp(min=1) if shared else chosen.float()
    return weights, count > 0
