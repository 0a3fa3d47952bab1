"""What a guided head should look at: for every query row i a target distribution p_i over keys.

Two shapes serve all patterns: *offset* (one key at i + k) and *column weights* (one target row, the same
for every query of a sequence). Rows whose target does not exist (the last row of "next", rows in the
padding) are left out of the loss; see specs in the README's section on guidance.
"""

import re
from dataclasses import dataclass

import torch

_NAMED_OFFSETS = {"next": 1, "previous": -1, "self": 0}
_OFFSET_NAME = re.compile(r"offset([+-]\d+)")
PATTERN_NAMES = "next, previous, self, first, offset+K, offset-K"


@dataclass(frozen=True)
class OffsetPattern:
    """Row i targets key i + offset."""

    offset: int

    def valid_rows(self, lengths: torch.Tensor, num_rows: int) -> torch.Tensor:
        """Which of `num_rows` rows have a target in sequences of the given lengths (B,): bool (B, N)."""
        rows = torch.arange(num_rows, device=lengths.device)
        targets = rows + self.offset
        return (rows < lengths[:, None]) & (targets >= 0) & (targets < lengths[:, None])

    def count_valid(self, lengths: torch.Tensor) -> torch.Tensor:
        """Number of rows with a target, summed over sequences: scalar."""
        return (lengths - abs(self.offset)).clamp(min=0).sum()

    def on_target(self, probs: torch.Tensor, first_row: int) -> torch.Tensor:
        """sum_j a_ij p_ij for the block of rows `probs` (B, H, R, N): (B, H, R), 0 without a target."""
        mass = probs.new_zeros(probs.shape[:-1])
        targets = self._targets(probs, first_row)
        start = max(0, -first_row - self.offset)
        mass[..., start : start + targets.shape[-1]] = targets
        return mass

    def subtract(self, probs: torch.Tensor, first_row: int) -> None:
        """Turn a block of a_ij into a_ij - p_ij, in place."""
        self._targets(probs, first_row).sub_(1.0)

    def _targets(self, probs: torch.Tensor, first_row: int) -> torch.Tensor:
        """The block's target cells, a view: row r of the block targets column r + first_row + offset."""
        return probs.diagonal(offset=first_row + self.offset, dim1=-2, dim2=-1)


@dataclass(frozen=True)
class FirstPattern:
    """Every row targets the first token: the column-weight shape with all weight on column 0."""

    def valid_rows(self, lengths: torch.Tensor, num_rows: int) -> torch.Tensor:
        """As for OffsetPattern."""
        return torch.arange(num_rows, device=lengths.device) < lengths[:, None]

    def count_valid(self, lengths: torch.Tensor) -> torch.Tensor:
        """As for OffsetPattern."""
        return lengths.sum()

    def on_target(self, probs: torch.Tensor, first_row: int) -> torch.Tensor:
        """As for OffsetPattern."""
        return probs[..., 0].clone()

    def subtract(self, probs: torch.Tensor, first_row: int) -> None:
        """As for OffsetPattern."""
        probs[..., 0] -= 1.0


Pattern = OffsetPattern | FirstPattern


@dataclass(frozen=True)
class PatternHeads:
    """A pattern and the heads [first_head, end_head) it is given to, in every guided layer."""

    name: str
    pattern: Pattern
    first_head: int
    end_head: int


def parse_pattern(name: str) -> Pattern:
    """Pattern of a name such as "next" or "offset-3"; ValueError for any other."""
    if name == "first":
        return FirstPattern()
    if name in _NAMED_OFFSETS:
        return OffsetPattern(_NAMED_OFFSETS[name])
    if match := _OFFSET_NAME.fullmatch(name):
        return OffsetPattern(int(match[1]))
    raise ValueError(f"unknown pattern {name!r}; the patterns are {PATTERN_NAMES}")


def assign_heads(counts: dict[str, int]) -> list[PatternHeads]:
    """Give each pattern its number of heads, in the order written, from head 0 up.

    Args:
        counts: pattern name -> number of heads, as in a recipe.

    Raises:
        ValueError: unknown pattern name.
    """
    assigned, head = [], 0
    for name, count in counts.items():
        assigned.append(PatternHeads(name, parse_pattern(name), head, head + count))
        head += count
    return assigned
