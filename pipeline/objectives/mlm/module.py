"""Masked language modelling (Devlin et al. 2019), with the output layer on the predicted tokens only."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedModel

from pipeline.data.batches import Batch
from pipeline.data.masking import IGNORED_LABEL
from pipeline.encoder.inputs import encoder_inputs
from pipeline.objectives.linear_cross_entropy import OutputLayer
from pipeline.objectives.protocol import Pass, Scored, Term

# Each family's prediction head: what it does to hidden states, and the output layer after it.
_HEADS = {
    "bert": lambda model: (model.cls.predictions.transform, model.cls.predictions.decoder),
    "roberta": lambda model: (_RobertaTransform(model.lm_head), model.lm_head.decoder),
    "modernbert": lambda model: (model.head, model.decoder),
}
SUPPORTED_FAMILIES = tuple(_HEADS)


class MaskedLanguageModeling(nn.Module):
    """The cross-entropies of the masked tokens of a batch. It has one network, `model`."""

    def __init__(self, model: PreTrainedModel) -> None:
        """`model` is a transformers `...ForMaskedLM` of a supported family."""
        super().__init__()
        self.model = model
        transform, decoder = _HEADS[model.config.model_type](model)
        OutputLayer.take_over(decoder)
        # Not as submodules: they are the model's, and would have two names.
        self._head: tuple[Any, Any] = (transform, decoder)

    @property
    def networks(self) -> dict[str, PreTrainedModel]:
        """See ObjectiveModule."""
        return {"model": self.model}

    def forward(self, batch: Batch, step: int | None) -> Scored:
        """See ObjectiveModule: the masked tokens' losses in nats, and how many were guessed right."""
        del step
        positions, labels = batch.columns["positions"], batch.columns["labels"]
        corrupted = batch.input_ids.scatter(1, positions, batch.columns["replacements"])
        inputs = encoder_inputs(self.model, batch)
        hidden = self.model.base_model(corrupted, **inputs).last_hidden_state
        index = positions[..., None].expand(-1, -1, hidden.shape[-1])
        transform, decoder = self._head
        predicted = transform(hidden.gather(1, index).flatten(0, 1))
        total, losses, is_right = decoder(predicted, labels.flatten())
        by_row = losses.view_as(labels).sum(1)
        return Scored(
            terms={"mlm": Term(total, "predicted")},
            rows=torch.stack([by_row, (labels != IGNORED_LABEL).sum(1).to(by_row)]),
            sums={"loss": by_row.double().sum(), "correct": is_right.sum()},
        )

    def passes(self, batch: Batch) -> Sequence[Pass]:
        """See ObjectiveModule."""
        return [Pass("model", batch.counts["predicted"], self.model.config.vocab_size)]

    def exports(self) -> dict[str, tuple[str, type]]:
        """See ObjectiveModule."""
        return {"model": ("model", AutoModelForMaskedLM)}


class _RobertaTransform:
    """The part of RoBERTa's head before its output layer, which transformers does not set apart."""

    def __init__(self, head: Any) -> None:
        self.head = head

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head.layer_norm(F.gelu(self.head.dense(hidden)))
