"""Attention guidance as formulas: explicit n x n targets, float64, autograd. Slow and plain on purpose.

Nothing of pipeline.guidance is used here. Heads are written as in a recipe: {"next": 1, "first": 2}.

Shapes: B rows (sequences), H guided heads, N positions.
"""

from dataclasses import dataclass

import torch

TOKEN_SETS = {"delimiters": (0, 2), "sentence_ends": (5, 6)}


@dataclass(frozen=True)
class Rows:
    """Token ids (B, N) and, for each row, the lengths of its documents; the rest of a row is padding."""

    ids: torch.Tensor
    pieces: list[list[int]]

    @property
    def size(self) -> int:
        return self.ids.shape[1]

    @property
    def lengths(self) -> list[int]:
        """Real tokens of each row."""
        return [sum(pieces) for pieces in self.pieces]

    def document_of(self, index: int, place: int) -> range:
        """Places of the document that a place of row `index` belongs to; empty in the padding."""
        first = 0
        for length in self.pieces[index]:
            if place < first + length:
                return range(first, first + length)
            first += length
        return range(0)


def keys_of(pattern: str, place: int, document: range, ids: list[int]) -> list[int]:
    """The keys that a query at `place` of a document should look at; `ids` are the whole row's."""
    if place not in document:
        return []
    if pattern in TOKEN_SETS:
        return [key for key in document if ids[key] in TOKEN_SETS[pattern]]
    named = {"next": place + 1, "previous": place - 1, "self": place}
    named |= {"first": document[0], "last": document[-1]}
    key = named[pattern] if pattern in named else place + int(pattern.removeprefix("offset"))
    return [key] if key in document else []


def target_matrices(pattern: str, rows: Rows, published: bool = False) -> torch.Tensor:
    """Target distributions (B, N, N); a query without a target has a line of zeros.

    `published`: the authors' conventions. A row is one document, its padding included, and a query with
    several targets has a one for each instead of equal shares.
    """
    matrices = torch.zeros(*rows.ids.shape, rows.size, dtype=torch.float64)
    for index, ids in enumerate(rows.ids.tolist()):
        for place in range(rows.size):
            document = range(rows.size) if published else rows.document_of(index, place)
            keys = keys_of(pattern, place, document, ids)
            for key in keys:
                matrices[index, place, key] = 1.0 if published else 1.0 / len(keys)
    return matrices


def counted_rows(target: torch.Tensor, rows: Rows, published: bool = False) -> torch.Tensor:
    """Queries that count in the loss, (B, N), bool: those with a target.

    By the authors' code all, but for a row that has no token and only fills up a batch.
    """
    has_target = target.sum(-1) > 0
    has_tokens = torch.tensor([bool(pieces) for pieces in rows.pieces])
    return has_tokens[:, None].expand_as(has_target) if published else has_target


def heads_in_order(heads: dict[str, int]) -> list[str]:
    """The pattern of head 0, 1, ..."""
    return [pattern for pattern, count in heads.items() for _ in range(count)]


def log_attention(
    query: torch.Tensor, key: torch.Tensor, scaling: float, mask: torch.Tensor | None
) -> torch.Tensor:
    """log softmax(Q K^T * scaling + mask), (B, H, N, N); rows that may attend to nothing are uniform."""
    scores = query.double() @ key.double().transpose(-1, -2) * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    reachable = (scores > -torch.inf).any(-1, keepdim=True)
    return torch.log_softmax(scores.masked_fill(~reachable, 0.0), dim=-1)


def squared_errors(probs: torch.Tensor, target: torch.Tensor, keep: float = 1.0) -> torch.Tensor:
    """Mean squared error over dropout that leaves each entry with probability `keep`, rescaled by it."""
    left, dropped = (probs / keep - target) ** 2, target**2
    return (keep * left + (1.0 - keep) * dropped).sum(-1)


def cross_entropies(log_probs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """-log of the attention on all targets together; 0 for a row without one."""
    is_target = (target > 0).expand_as(log_probs)
    without = ~is_target.any(-1, keepdim=True)
    on_target = log_probs.masked_fill(~is_target & ~without, -torch.inf).logsumexp(-1)
    return -on_target.masked_fill(without[..., 0], 0.0)


def terms(
    log_probs: torch.Tensor,
    heads: dict[str, int],
    rows: Rows,
    *,
    form: str = "squared",
    keep: float = 1.0,
    published: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Errors, attention mass on target and whether the query counts, of the guided heads, all (B, H, N)."""
    errors, masses, counted = [], [], []
    for head, pattern in enumerate(heads_in_order(heads)):
        target, of_head = target_matrices(pattern, rows, published), log_probs[:, head]
        if form == "squared":
            errors.append(squared_errors(of_head.exp(), target, keep))
        else:
            errors.append(cross_entropies(of_head, target))
        masses.append((of_head.exp() * (target > 0)).sum(-1))
        counted.append(counted_rows(target, rows, published))
    return torch.stack(errors, 1), torch.stack(masses, 1), torch.stack(counted, 1)


def sums(probs: torch.Tensor, heads: dict[str, int], rows: Rows, **conventions: object) -> torch.Tensor:
    """Of attention (B, H, N, N): errors, mass and number of the counted queries, summed by head, (3, H)."""
    # Zero where a key is forbidden, of which log and its slope are infinite: far below all that counts.
    errors, mass, counted = terms(probs.double().clamp(min=1e-200).log(), heads, rows, **conventions)
    return torch.stack([(values * counted).sum((0, 2)) for values in (errors, mass, torch.ones_like(mass))])
