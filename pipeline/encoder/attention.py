"""The one place where this project touches a model's attention.

transformers lets a model's attention be computed by a named function. Ours computes it exactly as the
model's fused path would (SDPA), or by sequence where the model is given `sequences` (see attention_scope.py).
Before that it shows query, key, value and mask to the layer's *taps*, which may watch them and may ask for
something to be added to the scores. Nothing is copied from the model, no attention matrix is asked for, and
with taps that add nothing the model runs the same operations as an untouched one.

Each layer has taps of its own, and nothing here asks for a layer's number: a compiled graph then serves all
layers that are alike (see compilation.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.encoder.attention_scope import Sequences

ATTENTION_NAME = "lodestar"
_HIDDEN = "lodestar_hidden"  # the keyword argument by which a layer's input gets to its attention


class AttentionInputs(NamedTuple):
    """What a layer's attention is computed from: B rows, N positions, H heads of size D, E features.

    Attributes:
        hidden: input of the attention module, (B, N, E); None where no tap of the layer needs it.
        query: (B, H, N, D), position encoding applied.
        key: (B, H, N, D), or with fewer heads in models whose heads share keys.
        value: as `key`.
        scaling: factor on the scores.
        mask: None, or bool or additive, broadcastable to (B, 1, N, N).
        spans: None, or instead of a mask the keys that each query attends to, (2, B, N), int32: the first one
            and the one after the last.
    """

    hidden: torch.Tensor | None
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scaling: float
    mask: torch.Tensor | None
    spans: torch.Tensor | None


class AttentionTap(Protocol):
    """Sees what a layer's attention is computed from, and may add to its scores."""

    @property
    def adds_bias(self) -> bool:
        """Whether `bias` will give something in the next forward pass."""

    @property
    def needs_hidden(self) -> bool:
        """Whether `observe` is to be given `hidden`; an attribute of the class, which never changes."""

    def observe(self, inputs: AttentionInputs) -> None:
        """Called once per forward pass, and again where activations are computed again."""

    def bias(self, query: torch.Tensor) -> torch.Tensor | None:
        """What to add to the layer's scores, broadcastable to (B, H, N, N); None for nothing.

        Called after `observe`, with the same query; may be differentiable. Those of several taps add up.
        """


def install_taps(model: PreTrainedModel, taps_of_layer: Sequence[Sequence[AttentionTap]]) -> None:
    """Route the model's attention through this module and show its layers to these taps and no others.

    Without taps, a model whose attention cannot be routed keeps its own.

    Args:
        model: an encoder.
        taps_of_layer: those of each layer, the layer next to the embeddings first; `[]` for none at all.

    Raises:
        ValueError: there are taps, and the model's attention cannot be routed, or its layers cannot be told
            apart, or are another number.
    """
    _route(model)
    for module in model.modules():
        if hasattr(module, "attention_taps"):
            _set_taps(module, ())
    add_taps(model, taps_of_layer)


def add_taps(model: PreTrainedModel, taps_of_layer: Sequence[Sequence[AttentionTap]]) -> None:
    """Show the model's layers to these taps too, after those they have; see `install_taps`."""
    if any(taps_of_layer):
        for module, taps in _layers_with(model, taps_of_layer):
            _set_taps(module, (*getattr(module, "attention_taps", ()), *taps))


def remove_taps(model: PreTrainedModel, taps_of_layer: Sequence[Sequence[AttentionTap]]) -> None:
    """Take these taps away from the layers that they were added to; others stay."""
    if any(taps_of_layer):
        for module, taps in _layers_with(model, taps_of_layer):
            gone = {id(tap) for tap in taps}
            _set_taps(module, tuple(tap for tap in module.attention_taps if id(tap) not in gone))


@contextmanager
def tapped(model: PreTrainedModel, taps_of_layer: Sequence[Sequence[AttentionTap]]) -> Iterator[None]:
    """Show the model's layers to these taps too, inside a `with` block; see `install_taps`."""
    add_taps(model, taps_of_layer)
    try:
        yield
    finally:
        remove_taps(model, taps_of_layer)


def is_routed(model: PreTrainedModel) -> bool:
    """Whether the model's attention is computed here, so that it takes `sequences`; after `install_taps`."""
    return bool(model.config._attn_implementation == ATTENTION_NAME)


def why_not_tapped(model: PreTrainedModel) -> str | None:
    """Why the model's layers cannot have taps; None where they can."""
    if not model._can_set_attn_implementation():
        return f"{type(model).__name__}: its attention cannot be watched, for this family computes it itself"
    expected, layers = _num_layers(model), _attention_layers(model)
    numbers = [getattr(module, "layer_idx", None) for module in layers]
    if len(layers) != expected or numbers not in ([None] * expected, list(range(expected))):
        return (
            f"{type(model).__name__}: its attention layers cannot be told apart: expected {expected}, "
            f"found {len(layers)}, numbered {numbers}; attention of this family cannot be watched"
        )
    return None


def _route(model: PreTrainedModel) -> None:
    # Asked first because transformers would warn, about a model that may be trained as it is.
    if model._can_set_attn_implementation():
        AttentionInterface.register(ATTENTION_NAME, _attention)
        AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
        model.set_attn_implementation(ATTENTION_NAME)


def _layers_with(
    model: PreTrainedModel, taps_of_layer: Sequence[Sequence[AttentionTap]]
) -> list[tuple[Any, Sequence[AttentionTap]]]:
    """Attention modules and the taps meant for them; a ValueError as `install_taps` has it."""
    if (reason := why_not_tapped(model)) is not None:
        raise ValueError(reason)
    _route(model)
    layers = _attention_layers(model)
    if len(layers) != len(taps_of_layer):
        raise ValueError(
            f"taps for {len(taps_of_layer)} layers, but {type(model).__name__} has {len(layers)}"
        )
    return list(zip(layers, taps_of_layer))


def _num_layers(model: PreTrainedModel) -> int:
    return int(getattr(model.config, "num_hidden_layers", 0))


def _attention_layers(model: PreTrainedModel) -> list[Any]:
    """Self-attention modules: the ones that know whether they are causal.

    By their number where they have one, else in the order of the stack, which is the order of modules.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "is_causal")]
    if all(getattr(module, "layer_idx", None) is not None for module in layers):
        layers.sort(key=lambda module: module.layer_idx)
    return layers


def _set_taps(module: Any, taps: tuple[AttentionTap, ...]) -> None:
    """Give a self-attention module its taps, and a hook only where one of them needs the module's input.

    torch.compile does not notice a hook, but it does notice other taps: graphs with and without stay apart.
    """
    module.attention_taps = taps
    hook = getattr(module, "attention_hook", None)
    needs_hidden = any(tap.needs_hidden for tap in taps)
    if needs_hidden and hook is None:
        module.attention_hook = module.register_forward_pre_hook(_pass_hidden, with_kwargs=True)
    elif hook is not None and not needs_hidden:
        hook.remove()
        module.attention_hook = None


def _pass_hidden(
    _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let the module's input travel along to `_attention`, so that nothing has to hold it in between."""
    return args, {**kwargs, _HIDDEN: args[0] if args else kwargs["hidden_states"]}


def adds_bias(model: PreTrainedModel) -> bool:
    """Whether some tap will add to the scores in the next forward pass."""
    return any(tap.adds_bias for module in model.modules() for tap in getattr(module, "attention_taps", ()))


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
    hidden = kwargs.pop(_HIDDEN, None)
    taps: tuple[AttentionTap, ...] = getattr(module, "attention_taps", ())
    if taps:
        spans = None if sequences is None else sequences.spans_of(window is not None)
        inputs = AttentionInputs(hidden, query, key, value, scaling, attention_mask, spans)
        bias = None
        for tap in taps:
            tap.observe(inputs)
            added = tap.bias(query)
            if added is not None:
                bias = added if bias is None else bias + added
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
