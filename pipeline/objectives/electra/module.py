"""A generator and a discriminator trained together (Clark et al. 2020, sections 2 and 3).

    x       the row;  M  its masked places;  x~  the row with the generator's samples at M
    loss    mean over M of -log p_G(x_t | masked row)
            + weight * mean over real tokens of BCE(d_t, [x~_t != x_t])

A sample that is the original counts as original. No gradient flows through the samples. Both means are over
the global batch: their denominators are known before the forward pass.

Shapes: B rows, T tokens of a row, K masked places of a row.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedModel

from pipeline.data.batches import Batch
from pipeline.data.masking import IGNORED_LABEL
from pipeline.encoder.inputs import encoder_inputs
from pipeline.encoder.linear_cross_entropy import Predictions, Questions
from pipeline.encoder.masked_lm import MaskedPredictor
from pipeline.encoder.replaced_token import detector_class, replaced_logits
from pipeline.objectives.protocol import Pass, Scored, Term


class ReplacedTokenDetection(nn.Module):
    """The losses of a generator and of a discriminator that reads its samples."""

    _sampled: torch.Tensor

    def __init__(
        self,
        discriminator: PreTrainedModel,
        generator: PreTrainedModel,
        weight: float,
        sampled: torch.Tensor,
    ) -> None:
        """Of two networks that may share embeddings.

        Args:
            discriminator: of `detector_class` of its family.
            generator: a masked language model.
            weight: factor on the discriminator's loss.
            sampled: ids that the generator may fill in: no special tokens.
        """
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self._weight = weight
        self._predict = MaskedPredictor(generator)
        self.register_buffer("_sampled", sampled, persistent=False)

    @property
    def networks(self) -> dict[str, PreTrainedModel]:
        """See ObjectiveModule."""
        return {"discriminator": self.discriminator, "generator": self.generator}

    def forward(self, batch: Batch, step: int | None) -> Scored:
        """See ObjectiveModule."""
        del step
        labels = batch.columns["labels"]
        predicted = self._ask_generator(batch)
        assert predicted.sampled_ids is not None
        corrupted = self._fill_in(batch, predicted.sampled_ids)
        is_replaced = corrupted != batch.input_ids
        columns = torch.arange(corrupted.shape[1], device=corrupted.device)
        is_real = columns < batch.lengths[:, None]
        inputs = encoder_inputs(self.discriminator, batch)
        logits = replaced_logits(self.discriminator(corrupted, **inputs)).float()
        losses = F.binary_cross_entropy_with_logits(logits, is_replaced.float(), reduction="none")
        losses = torch.where(is_real, losses, 0.0)
        is_right = ((logits > 0) == is_replaced) & is_real
        by_row = losses.detach().sum(1)
        generator_by_row = predicted.losses.view_as(labels).sum(1)
        # So that a row's loss over its tokens is what it would be with the row as the whole batch.
        tokens_per_prediction = batch.lengths / (labels != IGNORED_LABEL).sum(1).clamp(min=1)
        row_losses = self._weight * by_row + tokens_per_prediction * generator_by_row
        return Scored(
            terms={
                "generator": Term(predicted.total, "predicted"),
                "discriminator": Term(losses.sum(), "tokens", self._weight),
            },
            rows=torch.stack([row_losses, batch.lengths.to(by_row)]),
            sums={
                "loss": by_row.double().sum(),
                "right": is_right.sum(),
                "replaced": is_replaced.sum(),
                "found": (is_right & is_replaced).sum(),
                "generator_loss": generator_by_row.double().sum(),
                "generator_right": predicted.is_right.sum(),
            },
        )

    def passes(self, batch: Batch) -> Sequence[Pass]:
        """See ObjectiveModule."""
        return [
            Pass("generator", batch.counts["predicted"]),
            Pass("discriminator", batch.counts["tokens"]),
        ]

    def exports(self) -> dict[str, tuple[str, type]]:
        """See ObjectiveModule."""
        return {
            "discriminator": ("discriminator", detector_class(self.discriminator.config)),
            "generator": ("generator", AutoModelForMaskedLM),
        }

    def _ask_generator(self, batch: Batch) -> Predictions:
        """The generator's losses and samples at the masked places."""
        masked = batch.input_ids.scatter(1, batch.columns["positions"], batch.columns["replacements"])
        questions = Questions(
            batch.columns["labels"].flatten(), batch.columns["uniforms"].flatten(), self._sampled
        )
        inputs = encoder_inputs(self.generator, batch)
        return self._predict(batch.columns["positions"], questions, input_ids=masked, **inputs)

    def _fill_in(self, batch: Batch, samples: torch.Tensor) -> torch.Tensor:
        """The rows with the samples at their places, (B, T); without gradient."""
        positions, labels = batch.columns["positions"], batch.columns["labels"]
        originals = batch.input_ids.gather(1, positions)
        fills = torch.where(labels == IGNORED_LABEL, originals, samples.view_as(labels))
        return batch.input_ids.scatter(1, positions, fills)
