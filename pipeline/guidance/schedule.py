"""How strongly, and in which layers and rows, a step is guided: pure functions of the step.

The run has two phases. *Dense*: every guided layer and row counts, while the patterns form. *Sampled*: a few
layers per step, drawn from (seed, step), and in them one row in so many. The phases change at a fixed step
or, by default, when the patterns have formed (see formation.py), and then no later than the weight begins to
fall.

A sampled step's errors are divided by the probability that they were looked at (Horvitz and Thompson 1952),
so its loss and gradient are unbiased estimates of the dense ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.counter_rng import make_keys, random_bits, to_unit

_LAYER_STREAM = 0x6C617972  # keeps these draws independent of masks and row order
_ROW_STREAM = 0x726F7773

REFERENCE_LENGTH = 512  # recipes give the weight of a squared error for rows of this length
DEFAULT_WEIGHTS = {"cross_entropy": 0.1, "squared": 7.0}  # found by trial; the authors' for squared errors


@dataclass(frozen=True, kw_only=True)
class GuidedLayer:
    """A layer looked at in a step.

    Attributes:
        layer: its number.
        probability: that a step of this phase looks at it.
        first_row: its first query row looked at; the others follow at the step's row_stride.
    """

    layer: int
    probability: float
    first_row: int = 0


@dataclass(frozen=True, kw_only=True)
class GuidedStep:
    """What a step does for guidance.

    Attributes:
        layers: looked at, ascending; none in a step without guidance loss.
        weight: factor on the mean error.
        row_stride: distance of the query rows looked at.
        bias: added to the scores of the targets, in every guided layer; 0 for none.
    """

    layers: tuple[GuidedLayer, ...] = ()
    weight: float = 0.0
    row_stride: int = 1
    bias: float = 0.0

    @staticmethod
    def looking_at(layers: Sequence[int]) -> "GuidedStep":
        """Every row of some layers, to measure them."""
        return GuidedStep(layers=tuple(GuidedLayer(layer=layer, probability=1.0) for layer in layers))


@dataclass(frozen=True, kw_only=True)
class GuidanceSchedule:
    """When guidance acts. Steps count from 0.

    Attributes:
        weight: factor on the mean row error, for this sequence length; with a bias, 0.
        weights_before: (end step, weight) of the recipe's phases that come before, whose rows may have other
            lengths; ascending.
        bias: added to the targets' scores instead of a loss.
        plateau_steps: weight and bias are whole before this step.
        end_step: they are zero from this step on; in between they fall linearly.
        layers: the guided layers.
        dense_steps: length of the dense phase; None: until the patterns have formed.
        layers_per_step: layers looked at in a sampled step; None for all.
        layer_weights: chances of the layers relative to each other; None for equal ones.
        row_stride: in a sampled step, one query row in so many counts.
        seed: of the draws.
    """

    weight: float
    weights_before: tuple[tuple[int, float], ...] = ()
    bias: float = 0.0
    plateau_steps: int
    end_step: int
    layers: tuple[int, ...]
    dense_steps: int | None
    layers_per_step: int | None
    layer_weights: tuple[float, ...] | None = None
    row_stride: int = 1
    seed: int

    def strength_at(self, step: int) -> float:
        """Share of the weight in this step: 1 on the plateau, then linearly to 0."""
        if step < self.plateau_steps:
            return 1.0
        return max(0.0, (self.end_step - step) / max(1, self.end_step - self.plateau_steps))

    def whole_weight_at(self, step: int) -> float:
        """The weight that a strength of 1 has in this step."""
        return next((weight for end_step, weight in self.weights_before if step < end_step), self.weight)

    def is_dense(self, step: int, formed_step: int | None) -> bool:
        """Whether this step belongs to the dense phase.

        Args:
            step: the step.
            formed_step: step from which the patterns are known to have formed; None if they are not.
        """
        if self.dense_steps is not None:
            return step < self.dense_steps
        return step < (self.plateau_steps if formed_step is None else min(formed_step, self.plateau_steps))

    def at(self, step: int, formed_step: int | None = None) -> GuidedStep:
        """What this step does; see `is_dense` for the arguments."""
        strength = self.strength_at(step)
        weight, bias = self.whole_weight_at(step) * strength, self.bias * strength
        if weight == 0.0:
            return GuidedStep(bias=bias)
        if self.is_dense(step, formed_step):
            chosen, row_stride = [GuidedLayer(layer=layer, probability=1.0) for layer in self.layers], 1
        else:
            chosen, row_stride = self._sampled_layers(step), self.row_stride
        return GuidedStep(layers=tuple(chosen), weight=weight, row_stride=row_stride, bias=bias)

    def _sampled_layers(self, step: int) -> list[GuidedLayer]:
        probabilities = self.layer_probabilities()
        first_rows = random_bits(make_keys(_ROW_STREAM, self.seed, step), len(self.layers))[0]
        return [
            GuidedLayer(
                layer=self.layers[index],
                probability=float(probabilities[index]),
                first_row=int(first_rows[index] % np.uint64(self.row_stride)),
            )
            for index in sample_indices(probabilities, self.seed, step)
        ]

    def layer_probabilities(self) -> npt.NDArray[np.float64]:
        """Chance of each guided layer to be looked at in a sampled step, (layers,)."""
        weights = np.ones(len(self.layers)) if self.layer_weights is None else np.array(self.layer_weights)
        return inclusion_probabilities(weights, self.layers_per_step or len(self.layers))


def inclusion_probabilities(weights: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Probabilities in proportion to `weights` that sum to `count`, none above 1.

    What proportion would give more than 1 is certain; the rest is shared out among the others.
    """
    probabilities = np.zeros(len(weights))
    certain = np.zeros(len(weights), dtype=bool)
    while True:
        free = ~certain
        probabilities[free] = (count - certain.sum()) * weights[free] / weights[free].sum()
        above = free & (probabilities >= 1.0)
        if not above.any():
            return np.where(certain, 1.0, probabilities)
        certain |= above
        if certain.all():
            return np.ones(len(weights))


def sample_indices(probabilities: npt.NDArray[np.float64], seed: int, step: int) -> list[int]:
    """A choice in which index i has exactly its probability, of a fixed size: systematic sampling.

    The probabilities are laid end to end in random order, and those that points at distance 1 fall into are
    chosen (Madow 1949). The same on every process.

    Args:
        probabilities: at most 1 each; their sum is the number of indices chosen.
        seed: of the run.
        step: of the run.
    """
    draws = random_bits(make_keys(_LAYER_STREAM, seed, step), len(probabilities) + 1)[0]
    order = np.argsort(draws[1:], kind="stable")
    begin = to_unit(draws[:1])[0]
    borders = np.concatenate([[0.0], np.cumsum(probabilities[order])])
    # Exact at the end, where rounding could lose or gain a point.
    borders[-1] = round(borders[-1])
    num_points_before = np.ceil(borders - begin)
    chosen = order[np.diff(num_points_before) > 0]
    return sorted(int(index) for index in chosen)


def scaled_weight(weight: float, error: str, sequence_length: int) -> float:
    """A recipe's weight for rows of `sequence_length` tokens.

    At the start attention is nearly uniform, so a squared row error pulls its target's score with about
    2 weight / n; scaling the weight with n keeps that pull, and one recipe value serves every length.
    Cross-entropy pulls with about the weight itself, whatever the length.
    """
    return weight * sequence_length / REFERENCE_LENGTH if error == "squared" else weight


def weight_of_alpha(alpha: float, layer_types: int, sequence_length: int) -> float:
    """The factor on our mean error that is the authors' alpha.

    Their loss sums, over layers and pattern types, the mean over n x n elements; ours is one mean over
    layers, types and rows (specification of their code). With normalization `mean` that is the same loss only
    if all types have equally many heads; other recipes are refused.

    Args:
        alpha: their `--scale`.
        layer_types: pattern types summed over the guided layers: layers x types if all have the same.
        sequence_length: n.
    """
    return alpha * layer_types / sequence_length


def alpha_of_weight(weight: float, layer_types: int, sequence_length: int) -> float:
    """Inverse of `weight_of_alpha`."""
    return weight * sequence_length / layer_types
