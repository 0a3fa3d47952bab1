"""The guidance loss as a formula: explicit n x n targets, float64, autograd. Slow and plain on purpose.

Nothing of pipeline.guidance is used here. Heads are written as in a recipe: {"next": 1, "first": 2}.
"""

import torch


def target_of(pattern: str, row: int, length: int) -> int | None:
    """The key that a row of a sequence of `length` tokens should look at; None if there is none."""
    if row >= length:
        return None
    named = {"next": row + 1, "previous": row - 1, "self": row, "first": 0}
    target = named[pattern] if pattern in named else row + int(pattern.removeprefix("offset"))
    return target if 0 <= target < length else None


def targets(pattern: str, length: int, size: int) -> torch.Tensor:
    """Target matrix (size, size); a row without a target is all zero."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        target = target_of(pattern, row, length)
        if target is not None:
            matrix[row, target] = 1.0
    return matrix


def heads_in_order(heads: dict[str, int]) -> list[str]:
    """The pattern of head 0, 1, ..."""
    return [pattern for pattern, count in heads.items() for _ in range(count)]


def attention_probs(
    query: torch.Tensor, key: torch.Tensor, scaling: float, mask: torch.Tensor | None
) -> torch.Tensor:
    """softmax(Q K^T * scaling + mask), (B, H, N, N); rows that may attend to nothing are zero."""
    scores = query.double() @ key.double().transpose(-1, -2) * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    reachable = (scores > -torch.inf).any(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(~reachable, 0.0), dim=-1) * reachable


def errors_and_mass(
    probs: torch.Tensor, heads: dict[str, int], lengths: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared errors and mass on target of attention (B, H, N, N), summed over rows with a target: (H,)."""
    errors, masses = [], []
    for head, pattern in enumerate(heads_in_order(heads)):
        error, mass = 0.0, 0.0
        for index, length in enumerate(lengths):
            target = targets(pattern, length, probs.shape[-1]).to(probs.dtype)
            has_target = target.sum(-1, keepdim=True)
            error = error + (((probs[index, head] - target) * has_target) ** 2).sum()
            mass = mass + (probs[index, head] * target).sum()
        errors.append(error)
        masses.append(mass)
    return torch.stack(errors), torch.stack(masses)
