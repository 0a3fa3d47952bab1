"""Attention that stays inside documents: what a model is given for it, for every family.

In a row of several documents a position attends to the keys of its own document (and, in a local layer, of
its window), and positions are counted from the document's first token. That is the forward and backward pass
of each document in a row of its own.

There are two ways, equal to rounding. *By sequence*: all documents of a micro-batch lie end to end and one
kernel, `torch.nn.attention.varlen.varlen_attn`, is told where they begin; neither a mask nor a score outside
a document exists. *By mask*: SDPA with a mask of B x N x N bits. By sequence it is where that kernel can: on
CUDA from compute capability 8.0 on, in bf16 or fp16, with head sizes up to 256 in multiples of 8, without
attention dropout (in training) and without a bias on the scores. Everywhere else it is by mask.

Shapes: B rows, N positions, S sequences.
"""

from typing import Any, NamedTuple

import torch
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.data.documents import Documents, keys_of_document
from pipeline.encoder.families import attention_dropout, first_position

_LARGEST_HEAD = 256  # of flash attention
_FIRST_CAPABILITY = (8, 0)


class Sequences(NamedTuple):
    """The documents of a micro-batch, for attention by sequence and for what must know its keys.

    Attributes:
        borders: see Documents.borders, (S + 1,), int32.
        spans: see Documents.spans, (2, B, N), int32.
        local_spans: the same inside a local layer's window; as `spans` where no layer is local.
    """

    borders: torch.Tensor
    spans: torch.Tensor
    local_spans: torch.Tensor

    def spans_of(self, is_local: bool) -> torch.Tensor:
        """Keys of a layer."""
        return self.local_spans if is_local else self.spans


def attention_within_documents(
    model: PreTrainedModel, documents: Documents, borders: torch.Tensor, *, has_bias: bool, training: bool
) -> dict[str, Any]:
    """Arguments of the encoder for a micro-batch: `attention_mask`, `position_ids` and maybe `sequences`.

    Args:
        model: its attention is ours (see attention.py).
        documents: of the micro-batch, on the model's device.
        borders: its `documents.borders()`, on the same device.
        has_bias: something will be added to the scores.
        training: attention dropout, if the model has any, is on.
    """
    config = model.config
    inputs: dict[str, Any] = {"position_ids": position_ids(config, documents)}
    spans = documents.spans()
    reach = getattr(config, "sliding_window", None)
    local_spans = spans if reach is None else inside_window(spans, reach)
    if can_attend_by_sequence(
        device=spans.device,
        dtype=model.dtype,
        head_size=config.hidden_size // config.num_attention_heads,
        dropout=attention_dropout(config) if training else 0.0,
        has_bias=has_bias,
    ):
        inputs["sequences"] = Sequences(borders, spans, local_spans)
        inputs["attention_mask"] = _by_layer_type(config, None, None)
    else:
        full = spans_mask(spans)
        local = full if reach is None else spans_mask(local_spans)
        inputs["attention_mask"] = _by_layer_type(config, full, local)
    return inputs


def can_attend_by_sequence(
    *, device: torch.device, dtype: torch.dtype, head_size: int, dropout: float, has_bias: bool
) -> bool:
    """Whether the kernel for sequences can do it; the rule at the top of this module."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and suits_sequences(head_size, dropout, has_bias)
        and torch.cuda.get_device_capability(device) >= _FIRST_CAPABILITY
    )


def suits_sequences(head_size: int, dropout: float, has_bias: bool) -> bool:
    """The part of the rule that does not ask for a device."""
    return head_size % 8 == 0 and head_size <= _LARGEST_HEAD and dropout == 0.0 and not has_bias


def position_ids(config: PretrainedConfig, documents: Documents) -> torch.Tensor:
    """Positions as the family counts them, from each document's first token on, (B, N), int64.

    Where they begin after padding's number, padding has that one.
    """
    first = first_position(config)
    if first == 0:
        return documents.places()
    return first - 1 + torch.where(documents.ends > 0, documents.places() + 1, 0)


def inside_window(spans: torch.Tensor, reach: int) -> torch.Tensor:
    """Spans (2, B, N) cut to `reach` positions to either side."""
    positions = torch.arange(spans.shape[2], device=spans.device, dtype=spans.dtype)
    first = torch.maximum(spans[0], positions - reach)
    return torch.stack([first, torch.minimum(spans[1], positions + reach + 1)])


def spans_mask(spans: torch.Tensor) -> torch.Tensor:
    """Which keys each position attends to, (B, 1, N, N), bool."""
    return keys_of_document(spans[0], spans[1], spans.shape[2])[:, None]


def _by_layer_type(config: PretrainedConfig, full: torch.Tensor | None, local: torch.Tensor | None) -> Any:
    """Masks the way the family takes ready ones: one, or one for each type of layer."""
    if getattr(config, "layer_types", None) is None:
        return full
    return {"full_attention": full, "sliding_attention": local}
