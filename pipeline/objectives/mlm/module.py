"""Masked language modelling (Devlin et al. 2019), with the output layer on the predicted tokens only."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedModel

from pipeline.data.batches import Batch
from pipeline.data.masking import IGNORED_LABEL
from pipeline.encoder.inputs import encoder_inputs
from pipeline.encoder.linear_cross_entropy import Questions
from pipeline.encoder.masked_lm import MaskedPredictor
from pipeline.objectives.protocol import Pass, Scored, Term


class MaskedLanguageModeling(nn.Module):
    """The cross-entropies of the masked tokens of a batch. It has one network, `model`."""

    def __init__(self, model: PreTrainedModel) -> None:
        """`model` is a transformers `...ForMaskedLM`; see self_check.py for which."""
        super().__init__()
        self.model = model
        self._predict = MaskedPredictor(model)

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
        found = self._predict(positions, Questions(labels.flatten()), input_ids=corrupted, **inputs)
        by_row = found.losses.view_as(labels).sum(1)
        return Scored(
            terms={"mlm": Term(found.total, "predicted")},
            rows=torch.stack([by_row, (labels != IGNORED_LABEL).sum(1).to(by_row)]),
            sums={"loss": by_row.double().sum(), "correct": found.is_right.sum()},
        )

    def passes(self, batch: Batch) -> Sequence[Pass]:
        """See ObjectiveModule."""
        return [Pass("model", batch.counts["predicted"])]

    def exports(self) -> dict[str, tuple[str, type]]:
        """See ObjectiveModule."""
        return {"model": ("model", AutoModelForMaskedLM)}
