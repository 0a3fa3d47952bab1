"""The one place where this project touches a model's attention.

transformers lets a model's attention be computed by a named function. Ours computes it exactly as the
model's fused path would (SDPA), or by sequence where the model is given `sequences` (see attention_scope.py).
Before that it shows query, key and mask to the layer's *tap*, which may watch them and may ask for something
to be added to the scores. Nothing is copied from the model, no attention matrix is asked for, and with a tap
that adds nothing the model runs the same operations as an untouched one.

Each layer has a tap of its own, and nothing here asks for a layer's number: a compiled graph then serves all
layers that are alike (see compilation.py).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.encoder.attention_scope import Sequences

ATTENTION_NAME = "lodestar"


class AttentionTap(Protocol):
    """Sees what a layer's attention is computed from, and may add to its scores.

    Attributes:
        adds_bias: whether `bias` gives something in the next forward pass.
    """

    adds_bias: bool

    def observe(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        scaling: float,
        mask: torch.Tensor | None,
        spans: torch.Tensor | None,
    ) -> None:
        """Called once per forward pass.

        Args:
            query: (B, H, N, D), position encoding applied.
            key: (B, H, N, D).
            scaling: factor on the scores.
            mask: None, or bool or additive, broadcastable to (B, 1, N, N).
            spans: None, or instead of a mask the keys that each query attends to, (2, B, N), int32: the
                first one and the one after the last.
        """

    def bias(self, query: torch.Tensor) -> torch.Tensor | None:
        """What to add to the layer's scores, broadcastable to (B, H, N, N); None for nothing.

        Called after `observe`, with the same query; may be differentiable.
        """


def install_taps(model: PreTrainedModel, taps: Sequence[AttentionTap]) -> None:
    """Route the model's attention through this module and show its layers to `taps`.

    Args:
        model: an encoder.
        taps: one for each layer, that of the layer next to the embeddings first.

    Raises:
        ValueError: the model does not number its attention layers, so they cannot be told apart.
    """
    AttentionInterface.register(ATTENTION_NAME, _attention)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
    model.set_attn_implementation(ATTENTION_NAME)
    # Self-attention modules are the ones that know both their scale and their place in the stack.
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "is_causal")]
    layers.sort(key=lambda module: module.layer_idx)
    found = [module.layer_idx for module in layers]
    if found != list(range(model.config.num_hidden_layers)):
        raise ValueError(
            f"{type(model).__name__}: expected attention layers 0..{model.config.num_hidden_layers - 1}, "
            f"found {found}; this model family is not supported"
        )
    for module, tap in zip(layers, taps, strict=True):
        module.attention_tap = tap


def adds_bias(model: PreTrainedModel) -> bool:
    """Whether some tap will add to the scores in the next forward pass."""
    taps = (getattr(module, "attention_tap", None) for module in model.modules())
    return any(tap is not None and tap.adds_bias for tap in taps)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    sequences: Sequences | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    window = kwargs.get("sliding_window")
    scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
    tap = getattr(module, "attention_tap", None)
    if tap is not None:
        spans = None if sequences is None else sequences.spans_of(window is not None)
        tap.observe(query, key, scaling, attention_mask, spans)
        bias = tap.bias(query)
        if bias is not None:
            attention_mask = add_to_mask(attention_mask, bias)
    if sequences is not None:
        return attention_by_sequence(query, key, value, sequences.borders, scaling, window), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def attention_by_sequence(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """Attention inside sequences, of rows (B, H, N, D) laid end to end, (B, N, H, D).

    Args:
        query: of all rows.
        key: the same.
        value: the same.
        borders: where the sequences begin, then B * N, (S + 1,), int32; a sequence may be empty.
        scaling: factor on the scores.
        window: None, or one more than the positions that a query sees to either side, as transformers has it.
    """
    batch, heads, length, head_size = query.shape
    query, key, value = (t.transpose(1, 2).reshape(-1, heads, head_size) for t in (query, key, value))
    reach = -1 if window is None else window - 1
    output = varlen_attn(
        query, key, value, borders, borders, length, length, scale=scaling, window_size=(reach, reach)
    )
    assert isinstance(output, torch.Tensor)  # it is asked for nothing else
    return output.view(batch, length, heads, head_size)


def add_to_mask(mask: torch.Tensor | None, bias: torch.Tensor) -> torch.Tensor:
    """An additive mask: `bias` where `mask` (None, bool or additive) lets a row attend."""
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
    return mask + bias
