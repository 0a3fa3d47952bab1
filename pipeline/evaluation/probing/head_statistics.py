"""What heads do, in numbers: attention on a pattern's keys, entropy of the rows, where a row looks most.

Shapes: B sequences, N positions, H heads, P patterns. Attention is that of one layer, (B, H, N, N): row i has
what position i looks at, and keys in padding have none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pipeline.guidance.bias import is_target
from pipeline.guidance.targets import Targets


class HeadSums(NamedTuple):
    """Sums over the rows of some sequences, of L layers, all float64.

    Attributes:
        mass: attention on each pattern's keys, (P, L, H).
        num_targets: rows that have such keys, (P,).
        entropy: of the rows in nats, and as a share of the highest possible, (2, L, H).
        num_choices: rows with more than one key to look at, (L,).
    """

    mass: torch.Tensor
    num_targets: torch.Tensor
    entropy: torch.Tensor
    num_choices: torch.Tensor


def head_sums(
    attentions: Sequence[torch.Tensor],
    targets: Targets,
    lengths: torch.Tensor,
    reaches: Sequence[int | None],
) -> HeadSums:
    """What the heads of all layers do in a batch.

    Args:
        attentions: of each layer, (B, H, N, N).
        targets: of the patterns in these sequences.
        lengths: real tokens of each, (B,).
        reaches: how far each layer sees to either side; None for all the way.
    """
    keys = pattern_keys(targets)
    num_keys = [num_keys_in_reach(lengths, keys.shape[-1], reach) for reach in reaches]
    return HeadSums(
        mass=torch.stack([pattern_mass_sums(attention, keys) for attention in attentions], dim=1),
        num_targets=targets.count_valid(),
        entropy=torch.stack([entropy_sums(*layer) for layer in zip(attentions, num_keys)], dim=1),
        num_choices=torch.stack([(of_layer > 1).sum().double() for of_layer in num_keys]),
    )


def pattern_keys(targets: Targets) -> torch.Tensor:
    """1 for the keys that a pattern's rows should look at, (P, B, N, N), float32; else 0."""
    return torch.stack([is_target(targets, pattern) for pattern in range(len(targets.valid))]).float()


def pattern_mass_sums(attention: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Attention on the patterns' keys, summed over rows, (P, H), float64; see `pattern_keys`."""
    return torch.einsum("bhqk,pbqk->bph", attention, keys).double().sum(0)


def num_keys_in_reach(lengths: torch.Tensor, num_positions: int, reach: int | None) -> torch.Tensor:
    """How many keys each row can look at, (B, N), int64; 0 in padding.

    Args:
        lengths: real tokens of each sequence, (B,).
        num_positions: N.
        reach: how far a row sees to either side; None for all the way.
    """
    rows = torch.arange(num_positions, device=lengths.device)
    reach = num_positions if reach is None else reach
    ends = torch.minimum(rows + reach + 1, lengths[:, None])
    return torch.where(rows < lengths[:, None], ends - (rows - reach).clamp(min=0), 0)


def entropy_sums(attention: torch.Tensor, num_keys: torch.Tensor) -> torch.Tensor:
    """Entropy of the rows, in nats and as a share of the highest possible, both summed, (2, H), float64.

    Rows with fewer than two keys are left out: they have no choice.

    Args:
        attention: (B, H, N, N).
        num_keys: keys that each row can look at, (B, N); their logarithm is the highest entropy.
    """
    has_choice = (num_keys > 1)[:, None]
    entropy = torch.where(has_choice, torch.special.entr(attention).sum(-1), 0.0)
    highest = num_keys.clamp(min=2).log()[:, None]
    return torch.stack([entropy.double().sum((0, 2)), (entropy / highest).double().sum((0, 2))])


def looks_most_at(attention: torch.Tensor, rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Whether the key with the most attention, of one row of each sequence, is a wanted one, (B, H), bool.

    Args:
        attention: (B, H, N, N).
        rows: the row of each sequence, (B,).
        wanted: keys, (B, N), bool.
    """
    sequences = torch.arange(len(rows), device=rows.device)
    strongest = attention[sequences, :, rows].argmax(-1)
    return wanted.gather(1, strongest)
