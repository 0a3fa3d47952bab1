"""The one place where this project touches a model's attention.

transformers lets a model's attention be computed by a named function. Ours computes it exactly as the
model's fused path would (SDPA). Before that it shows query, key and mask to a *tap*, which may watch them
and may ask for something to be added to the scores. Nothing is copied from the model, no attention matrix
is asked for, and with a tap that adds nothing the model runs the same operations as an untouched one.
"""

from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION_NAME = "lodestar"


class AttentionTap(Protocol):
    """Sees what a layer's attention is computed from, and may add to its scores."""

    def observe(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, scaling: float, mask: torch.Tensor | None
    ) -> None:
        """Called once per layer and forward pass.

        Args:
            layer: 0 is the layer next to the embeddings.
            query: (B, H, N, D), position encoding applied.
            key: (B, H, N, D).
            scaling: factor on the scores.
            mask: None, or bool or additive, broadcastable to (B, 1, N, N).
        """

    def bias(self, layer: int, query: torch.Tensor) -> torch.Tensor | None:
        """What to add to the layer's scores, broadcastable to (B, H, N, N); None for nothing.

        Called after `observe`, with the same layer and query; may be differentiable.
        """


def install_tap(model: PreTrainedModel, tap: AttentionTap) -> int:
    """Route the model's attention through this module and show every layer to `tap`.

    Returns:
        The number of layers found.

    Raises:
        ValueError: the model does not number its attention layers, so they cannot be told apart.
    """
    AttentionInterface.register(ATTENTION_NAME, _attention)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
    model.set_attn_implementation(ATTENTION_NAME)
    # Self-attention modules are the ones that know both their scale and their place in the stack.
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "is_causal")]
    found = sorted(module.layer_idx for module in layers)
    if found != list(range(model.config.num_hidden_layers)):
        raise ValueError(
            f"{type(model).__name__}: expected attention layers 0..{model.config.num_hidden_layers - 1}, "
            f"found {found}; this model family is not supported"
        )
    for module in layers:
        module.attention_tap = tap
    return len(layers)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    tap = getattr(module, "attention_tap", None)
    if tap is not None:
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        tap.observe(module.layer_idx, query, key, scaling, attention_mask)
        bias = tap.bias(module.layer_idx, query)
        if bias is not None:
            attention_mask = add_to_mask(attention_mask, bias)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def add_to_mask(mask: torch.Tensor | None, bias: torch.Tensor) -> torch.Tensor:
    """An additive mask: `bias` where `mask` (None, bool or additive) lets a row attend."""
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
    return mask + bias
