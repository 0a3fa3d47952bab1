"""Floating-point operations of a training step, counted from the model's matrix products.

These are *model* FLOPs (Chowdhery et al. 2022, appendix B): what the mathematics of a step needs, whatever
the implementation does. A product of (m, k) and (k, n) counts 2 m k n. With hidden size d, feed-forward
size f and vocabulary V:

    a real token, per layer     2 (4 d^2 + 2 d f): query, key, value, output and the two of the feed-forward;
                                2 (4 d^2 + 3 d f) where the feed-forward is gated
    an attended pair, per layer 2 * 2 d: the score of a query and a key, and its share in the output
    a prediction                2 (d^2 + d V): the output layer runs on predicted tokens only; a
                                discriminator runs a smaller head on all tokens
    backward                    twice the forward

An objective says which passes it makes, of which network, over how many predictions (`passes`). The products
of tokens and predictions are those that the network's linear layers make in a forward pass without memory
or arithmetic, so whatever the family has is counted: gates, factorized embeddings, layers used again. Of a
family that cannot run so, each linear layer counts once. Attention is counted as above in all families.

Not counted because the result does not need it: padding, pairs that are masked out, what activation
checkpointing computes a second time. Not counted because it is not the model's: guidance. Not counted because
it is small: everything that is no matrix product.
"""

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.data.batches import Batch
from pipeline.encoder.families import attention_reach
from pipeline.objectives.protocol import ObjectiveModule, Pass

_TRIED_TOKENS = 8
_BACKWARD = 2  # a product's backward pass has two of its size: one for either factor


@dataclass(frozen=True)
class ModelFlops:
    """What a model's forward pass costs.

    Attributes:
        per_token: of a real token, in all layers together, without attention.
        per_prediction: of a position that the model's head runs on.
        per_pair: reach of attention (None: all the way) -> FLOPs of an attended pair in all layers with it.
    """

    per_token: int
    per_prediction: int
    per_pair: dict[int | None, int]

    @staticmethod
    def of(model: PreTrainedModel) -> "ModelFlops":
        """Of an encoder with its prediction head."""
        config = copy.deepcopy(model.config)
        config._attn_implementation = "eager"  # any will do, and only this one can be had in all families
        with torch.device("meta"):
            untrained = type(model)(config).eval()
        per_token, per_prediction = _linear_flops(untrained)
        reaches = Counter(attention_reach(config, layer) for layer in range(config.num_hidden_layers))
        return ModelFlops(
            per_token=per_token,
            per_prediction=per_prediction,
            per_pair={reach: count * 2 * 2 * config.hidden_size for reach, count in reaches.items()},
        )

    def of_pass(self, batch: Batch, network_pass: Pass) -> float:
        """Of a pass over a batch in host memory."""
        forward = batch.counts["tokens"] * self.per_token + network_pass.predictions * self.per_prediction
        for reach, flops in self.per_pair.items():
            forward += attended_pairs(batch, reach) * flops
        return (1 + _BACKWARD) * forward if network_pass.backward else forward


class FlopCounter:
    """Counts what an objective's passes over a batch cost."""

    def __init__(self, objective: ObjectiveModule) -> None:
        """Of an objective whose networks stay as they are."""
        self._passes = objective.passes
        self._networks = {name: ModelFlops.of(model) for name, model in objective.networks.items()}

    def __call__(self, batch: Batch) -> float:
        """Of the forward and backward passes over a batch in host memory."""
        return sum(self._networks[one.network].of_pass(batch, one) for one in self._passes(batch))


def _linear_flops(model: PreTrainedModel) -> tuple[int, int]:
    """FLOPs of the linear layers of a model on the meta device: in its encoder, and after it; per token."""
    encoder = set(model.base_model.modules())
    flops = Counter[bool]()  # whether in the encoder -> so many

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        flops[layer in encoder] += 2 * inputs[0].numel() * layer.out_features

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, _TRIED_TOKENS, dtype=torch.long, device="meta"))
    except Exception:  # of any kind: code that looks at values, or a kernel that cannot do without them
        flops.clear()
        for layer in layers:
            flops[layer in encoder] += 2 * layer.weight.numel() * _TRIED_TOKENS
    finally:
        for hook in hooks:
            hook.remove()
    return flops[True] // _TRIED_TOKENS, flops[False] // _TRIED_TOKENS


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
