"""Masked language modelling (Devlin et al. 2019), with the output layer on the predicted tokens only."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from pipeline.objectives.linear_cross_entropy import OutputLayer

# Each family's prediction head: what it does to hidden states, and the output layer after it.
_HEADS = {
    "bert": lambda model: (model.cls.predictions.transform, model.cls.predictions.decoder),
    "roberta": lambda model: (_RobertaTransform(model.lm_head), model.lm_head.decoder),
    "modernbert": lambda model: (model.head, model.decoder),
}
SUPPORTED_FAMILIES = tuple(_HEADS)


class MaskedLanguageModeling(nn.Module):
    """The cross-entropies of the masked tokens of a micro-batch."""

    def __init__(self, model: PreTrainedModel) -> None:
        """`model` is a transformers `...ForMaskedLM` of a supported family."""
        super().__init__()
        self.model = model
        transform, decoder = _HEADS[model.config.model_type](model)
        OutputLayer.take_over(decoder)
        # Not as submodules: they are the model's, and would have two names.
        self._head: tuple[Any, Any] = (transform, decoder)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        positions: torch.Tensor,
        labels: torch.Tensor,
        **inputs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score a micro-batch.

        Args:
            input_ids: corrupted tokens, (B, T).
            attention_mask: 1 for real tokens, (B, T), None when there is no padding; or what
                `attention_within_documents` gives for it.
            positions: columns to predict, (B, K).
            labels: original tokens there, (B, K), IGNORED_LABEL where there is none.
            inputs: further ones of the model, such as position_ids.

        Returns:
            The sum of the cross-entropies in nats, float32, differentiable; each row's sum, (B,) float32, not
            differentiable; the number of tokens guessed right.
        """
        hidden = self.model.base_model(input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        index = positions[..., None].expand(-1, -1, hidden.shape[-1])
        transform, decoder = self._head
        predicted = transform(hidden.gather(1, index).flatten(0, 1))
        total, losses, is_right = decoder(predicted, labels.flatten())
        return total, losses.view_as(labels).sum(1), is_right.sum()


class _RobertaTransform:
    """The part of RoBERTa's head before its output layer, which transformers does not set apart."""

    def __init__(self, head: Any) -> None:
        self.head = head

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head.layer_norm(F.gelu(self.head.dense(hidden)))
