"""How strongly, and in which layers, a step is guided: pure functions of the step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.counter_rng import make_keys, random_bits

_LAYER_STREAM = 0x6C617972  # keeps layer draws independent of masks and row order

REFERENCE_LENGTH = 512  # recipes give the weight for rows of this length


@dataclass(frozen=True, kw_only=True)
class GuidanceSchedule:
    """When guidance acts. Steps count from 0.

    Attributes:
        weight: factor on the mean row error, already scaled to the sequence length.
        plateau_steps: full weight before this step.
        end_step: weight zero from this step on; in between it falls linearly.
        layers: the guided layers.
        dense_steps: before this step every guided layer counts.
        layers_per_step: afterwards so many of them, drawn anew each step; None for all.
        seed: of the draws.
    """

    weight: float
    plateau_steps: int
    end_step: int
    layers: tuple[int, ...]
    dense_steps: int
    layers_per_step: int | None
    seed: int

    def weight_at(self, step: int) -> float:
        """Factor on the mean row error in this step."""
        if step < self.plateau_steps:
            return self.weight
        remaining = (self.end_step - step) / max(1, self.end_step - self.plateau_steps)
        return self.weight * max(0.0, remaining)

    def layers_at(self, step: int) -> tuple[int, ...]:
        """Layers guided in this step: none when the weight is zero."""
        if self.weight_at(step) == 0.0:
            return ()
        if self.layers_per_step is None or step < self.dense_steps:
            return self.layers
        return sample_layers(self.layers, self.layers_per_step, self.seed, step)


def sample_layers(layers: Sequence[int], count: int, seed: int, step: int) -> tuple[int, ...]:
    """A uniform choice of `count` of the layers, the same on every process."""
    draws = random_bits(make_keys(_LAYER_STREAM, seed, step), len(layers))[0]
    chosen = np.argsort(draws, kind="stable")[:count]
    return tuple(sorted(layers[index] for index in chosen))


def scaled_weight(weight: float, sequence_length: int) -> float:
    """A recipe's weight for rows of `sequence_length` tokens.

    At the start attention is nearly uniform, so a row error pulls its target's score with about weight / n;
    scaling the weight with n keeps that pull, and one recipe value serves every length.
    """
    return weight * sequence_length / REFERENCE_LENGTH
