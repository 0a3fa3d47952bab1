"""Floating-point operations of a training step, counted from the model's matrix products.

These are *model* FLOPs (Chowdhery et al. 2022, appendix B): what the mathematics of a step needs, whatever
the implementation does. A product of (m, k) and (k, n) counts 2 m k n. With hidden size d, feed-forward
size f and vocabulary V:

    a real token, per layer     2 (4 d^2 + 2 d f): query, key, value, output and the two of the feed-forward;
                                2 (4 d^2 + 3 d f) in ModernBERT, whose feed-forward is gated
    an attended pair, per layer 2 * 2 d: the score of a query and a key, and its share in the output
    a prediction                2 (d^2 + d V): the output layer runs on predicted tokens only; a
                                discriminator has one output in the place of V
    backward                    twice the forward

An objective says which passes it makes, of which network, over how many predictions (`passes`).

Not counted because the result does not need it: padding, pairs that are masked out, what activation
checkpointing computes a second time. Not counted because it is not the model's: guidance. Not counted because
it is small: everything that is no matrix product.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from pipeline.data.batches import Batch
from pipeline.encoder.model import attention_reach
from pipeline.objectives.protocol import ObjectiveModule, Pass

_BACKWARD = 2  # a product's backward pass has two of its size: one for either factor


@dataclass(frozen=True)
class ModelFlops:
    """What a model's forward pass costs.

    Attributes:
        per_token: of a real token, in all layers together, without attention.
        hidden_size: d.
        per_pair: reach of attention (None: all the way) -> FLOPs of an attended pair in all layers with it.
    """

    per_token: int
    hidden_size: int
    per_pair: dict[int | None, int]

    @staticmethod
    def of(config: PretrainedConfig) -> "ModelFlops":
        """Of an encoder of one of the supported families."""
        hidden, inner, num_layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
        feed_forward = 3 if config.model_type == "modernbert" else 2
        reaches = Counter(attention_reach(config, layer) for layer in range(num_layers))
        return ModelFlops(
            per_token=num_layers * 2 * (4 * hidden**2 + feed_forward * hidden * inner),
            hidden_size=hidden,
            per_pair={reach: count * 2 * 2 * hidden for reach, count in reaches.items()},
        )

    def of_pass(self, batch: Batch, network_pass: Pass) -> float:
        """Of a pass over a batch in host memory."""
        per_prediction = 2 * self.hidden_size * (self.hidden_size + network_pass.outputs)
        forward = batch.counts["tokens"] * self.per_token + network_pass.predictions * per_prediction
        for reach, flops in self.per_pair.items():
            forward += attended_pairs(batch, reach) * flops
        return (1 + _BACKWARD) * forward if network_pass.backward else forward


class FlopCounter:
    """Counts what an objective's passes over a batch cost."""

    def __init__(self, objective: ObjectiveModule) -> None:
        """Of an objective whose networks stay as they are."""
        self._passes = objective.passes
        self._networks = {name: ModelFlops.of(model.config) for name, model in objective.networks.items()}

    def __call__(self, batch: Batch) -> float:
        """Of the forward and backward passes over a batch in host memory."""
        return sum(self._networks[one.network].of_pass(batch, one) for one in self._passes(batch))


def attended_pairs(batch: Batch, reach: int | None) -> int:
    """How many (query, key) pairs of a micro-batch are attended in a layer.

    The one place that knows what a token may look at: all tokens of its row, or of its document where
    attention stays inside documents, up to `reach` to either side.
    """
    return pairs_within(batch.lengths if batch.borders is None else batch.documents.lengths(), reach)


def pairs_within(lengths: torch.Tensor, reach: int | None) -> int:
    """Pairs of positions at most `reach` apart (None: all), in sequences of these lengths, of any shape."""
    furthest = (lengths - 1).clamp(min=0)
    if reach is not None:
        furthest = furthest.clamp(max=reach)
    # 2 furthest + 1 for every position, less what would lie outside at the two ends.
    return int((lengths * (2 * furthest + 1) - furthest * (furthest + 1)).sum())
