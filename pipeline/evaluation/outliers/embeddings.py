"""Sentences as vectors of an encoder. Shapes: B sentences of a batch, N in all, T tokens, D hidden size."""

from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel

from pipeline.errors import UsageError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.outliers.arrays import FloatArray

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # ids (B, T), attention mask (B, T) -> (B, K)


class Pooling(Enum):
    """What of a sentence's last hidden states becomes its embedding.

    Attributes:
        MEAN: their mean over the real tokens, special ones included.
        FIRST: the first token's, which is what most classification heads read.
    """

    MEAN = "mean"
    FIRST = "first"


def load_pretrained(encoder: Encoder) -> PreTrainedModel:
    """The encoder without a head, in float32 on its device; a UsageError says why it cannot be opened."""
    model, loaded = encoder.open_model(AutoModel)
    # A pooler is not looked at.
    if missing := sorted(name for name in loaded["missing_keys"] if "pooler" not in name):
        raise UsageError(
            f"{encoder.path} lacks weights of an encoder, {missing[0]} for one; save the whole encoder there "
            "with save_pretrained"
        )
    return model


def embed(
    model: PreTrainedModel,
    encoder: Encoder,
    sentences: Sequence[str],
    *,
    pooling: Pooling,
    batch_size: int,
    max_length: int,
) -> FloatArray:
    """Embeddings of sentences, (N, D).

    Args:
        model: without a head; its output has `last_hidden_state`.
        encoder: whose model it is, perhaps fine-tuned; its tokenizer is used.
        sentences: N of them.
        pooling: what of the hidden states is kept.
        batch_size: sentences per forward pass; it changes nothing but rounding.
        max_length: longer sentences are cut to so many tokens, special ones included.
    """

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        if pooling is Pooling.FIRST:
            return hidden[:, 0]
        real = mask[..., None].to(hidden.dtype)
        return (hidden * real).sum(1) / real.sum(1)

    return outputs(model, forward, encoder, sentences, batch_size=batch_size, max_length=max_length)


@torch.no_grad()
def outputs(
    model: PreTrainedModel,
    forward: Forward,
    encoder: Encoder,
    sentences: Sequence[str],
    *,
    batch_size: int,
    max_length: int,
) -> FloatArray:
    """What `forward` gives for every sentence, (N, K), in their order; without dropout.

    Sentences of about the same length share a batch, so that little is computed for padding.
    """
    tokenizer, cut = encoder.padding_tokenizer(), encoder.longest_input(max_length)
    ids = tokenizer(list(sentences), truncation=True, max_length=cut)["input_ids"]
    order = np.argsort([len(row) for row in ids], kind="stable")
    was_training = model.training
    model.eval()
    parts = []
    for chosen in np.array_split(order, range(batch_size, len(order), batch_size)):
        batch = tokenizer.pad({"input_ids": [ids[row] for row in chosen]}, return_tensors="pt")
        batch = batch.to(model.device)
        parts.append(forward(batch["input_ids"], batch["attention_mask"]).double().cpu().numpy())
    model.train(was_training)
    values = np.concatenate(parts)
    restored = np.empty_like(values)
    restored[order] = values
    return restored
