"""What an encoder is given beside its tokens: a mask, or the documents its attention stays inside of."""

from typing import Any

from transformers import PreTrainedModel

from pipeline.data.batches import Batch
from pipeline.encoder.attention import adds_bias
from pipeline.encoder.attention_scope import attention_within_documents


def encoder_inputs(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """Arguments of the model for a batch on its device: `attention_mask`, and what documents apart need."""
    if batch.borders is None:
        return {"attention_mask": batch.attention_mask()}
    return attention_within_documents(
        model, batch.documents, batch.borders, has_bias=adds_bias(model), training=model.training
    )
