"""Guidance as an additive bias on the targets' scores: no loss, the pattern is there from the first step.

A mode for comparison. The bias decays with the schedule; once it is zero, attention is the plain one. It is
a dense (B, H, N, N) addition to the mask, so it has neither the memory nor the speed of the loss.
"""

from collections.abc import Sequence

import torch

from pipeline.data.documents import keys_of_document
from pipeline.guidance.targets import Targets


def target_bias(
    targets: Targets, pattern_of_head: Sequence[int], query: torch.Tensor, strength: float | torch.Tensor
) -> torch.Tensor:
    """`strength` where a guided head has a target, else 0, (B, H, N, N), in the query's type.

    Args:
        targets: of the micro-batch.
        pattern_of_head: pattern of each guided head, from head 0 up; the other heads have no bias.
        query: (B, H, N, D).
        strength: added to the scores, in nats; a tensor () lets one compiled graph serve any.
    """
    batch, num_heads, length, _ = query.shape
    bias = query.new_zeros(batch, num_heads, length, length)
    for head, pattern in enumerate(pattern_of_head):
        bias[:, head] = strength * is_target(targets, pattern)
    return bias


def is_target(targets: Targets, pattern: int) -> torch.Tensor:
    """Which keys a pattern's rows should look at, (B, N, N), bool."""
    num_keys = targets.valid.shape[-1]
    if pattern < len(targets.single):
        return targets.single[pattern][..., None] == torch.arange(num_keys, device=targets.single.device)
    own = keys_of_document(targets.documents.starts, targets.documents.ends, num_keys)
    return (targets.columns[pattern - len(targets.single)] > 0)[:, None] & own
