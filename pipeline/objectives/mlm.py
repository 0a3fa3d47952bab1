"""Masked language modelling (Devlin et al. 2019), with the output layer on the predicted tokens only."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from pipeline.data.masking import IGNORED_LABEL

# How each family turns hidden states into vocabulary logits.
_HEADS = {
    "bert": lambda model, hidden: model.cls(hidden),
    "roberta": lambda model, hidden: model.lm_head(hidden),
    "modernbert": lambda model, hidden: model.decoder(model.head(hidden)),
}
SUPPORTED_FAMILIES = tuple(_HEADS)


class MaskedLanguageModeling(nn.Module):
    """Sums, by row, of the cross-entropies of the masked tokens of a micro-batch."""

    def __init__(self, model: PreTrainedModel) -> None:
        """`model` is a transformers `...ForMaskedLM` of a supported family."""
        super().__init__()
        self.model = model
        self._head = _HEADS[model.config.model_type]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        positions: torch.Tensor,
        labels: torch.Tensor,
        **inputs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score a micro-batch.

        Args:
            input_ids: corrupted tokens, (B, T).
            attention_mask: 1 for real tokens, (B, T), None when there is no padding; or what
                `attention_within_documents` gives for it.
            positions: columns to predict, (B, K).
            labels: original tokens there, (B, K), IGNORED_LABEL where there is none.
            inputs: further ones of the model, such as position_ids.

        Returns:
            Each row's cross-entropy in nats, summed over its predicted tokens, (B,) float32, and the number
            of tokens guessed right in all rows.
        """
        hidden = self.model.base_model(input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        index = positions[..., None].expand(-1, -1, hidden.shape[-1])
        logits = self._head(self.model, hidden.gather(1, index)).float()
        losses = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
        )
        return losses.view_as(labels).sum(1), (logits.detach().argmax(-1) == labels).sum()
