"""The prediction head of any masked-LM class of transformers, run on the predicted positions only.

No family's head is known here. The model's own forward pass runs from its first line to its last, with two
changes for the duration of the call:

- a hook on `base_model` puts the hidden states at the predicted positions, (B * K, D), in the place of all,
  (B, T, D), so that the head works on them alone. They have no dimension of rows unless the head needs it,
  since ZeRO-3 computes linear layers of matrices in one rounding, of more dimensions in two;
- its output layer, which `get_output_embeddings` names, is an OutputLayer and is asked for losses instead of
  logits. What it gives is what the model returns as its logits.

That is right for a head that treats each position for itself and does nothing after its output layer. Whether
a model's does is found out by trying it, see self_check.py.

Shapes: B rows, T positions, K predicted positions of a row, D hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from pipeline.encoder.families import head_needs_rows
from pipeline.encoder.linear_cross_entropy import OutputLayer, Predictions, Questions
from pipeline.errors import UserError


class MaskedPredictor:
    """Predicts with a model at chosen positions. It is no module: the parameters are the model's own."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take over the output layer of a transformers `...ForMaskedLM`; its parameters keep their names.

        Raises:
            UserError: the model has no linear output layer, or no encoder apart from its head.
        """
        self.model = model
        self.output_layer = _take_over_output_layer(model)
        if model.base_model is model:
            raise UserError(f"{type(model).__name__} has no encoder apart from its prediction head")

    def __call__(self, positions: torch.Tensor, questions: Questions, **inputs: Any) -> Predictions:
        """Run the model and score its predictions.

        Args:
            positions: columns to predict, (B, K); a column may come several times.
            questions: of the B * K predictions, row by row: labels (B * K,), and what is to be drawn.
            inputs: of the model, such as input_ids and attention_mask.

        Raises:
            UserError: the model does not use its output layer, or goes on to change what it gives.
        """
        # Set for the call only: for everything else that runs the model it is the layer it was.
        self.output_layer.questions = questions
        try:
            with _hidden_states_at(self.model, positions):
                outputs = self.model(**inputs)
        except TypeError as error:  # a tuple cannot be added to, scaled or cut
            raise UserError(f"{_refusal(self.model)} ({error})") from error
        finally:
            self.output_layer.questions = None
        found = outputs[0]
        if not isinstance(found, tuple) or len(found) != len(Predictions._fields):
            raise UserError(_refusal(self.model))
        return Predictions(*found)


def predict_at(
    model: PreTrainedModel, positions: torch.Tensor, questions: Questions, **inputs: Any
) -> Predictions:
    """`MaskedPredictor` for a single call."""
    return MaskedPredictor(model)(positions, questions, **inputs)


def _take_over_output_layer(model: PreTrainedModel) -> OutputLayer:
    layer = model.get_output_embeddings()
    if isinstance(layer, OutputLayer):
        return layer
    if type(layer) is not nn.Linear:
        found = "none" if layer is None else f"a {type(layer).__name__}"
        raise UserError(f"{type(model).__name__}: expected a linear output layer, found {found}")
    return OutputLayer.take_over(layer)


@contextmanager
def _hidden_states_at(model: PreTrainedModel, positions: torch.Tensor) -> Iterator[None]:
    """Let the encoder in a model give its last hidden states at `positions` (B, K) only."""
    has_rows = head_needs_rows(model.config)

    def gather(_module: nn.Module, _arguments: Any, outputs: Any) -> Any:
        hidden = outputs[0]
        index = positions[..., None].expand(-1, -1, hidden.shape[-1])
        gathered = hidden.gather(1, index)
        if not has_rows:
            gathered = gathered.flatten(0, 1)
        if not isinstance(outputs, ModelOutput):
            return (gathered, *outputs[1:])
        outputs[next(iter(outputs))] = gathered
        return outputs

    hook = model.base_model.register_forward_hook(gather)
    try:
        yield
    finally:
        hook.remove()


def _refusal(model: PreTrainedModel) -> str:
    return (
        f"{type(model).__name__} cannot be trained: its logits are not what its output layer gives, but more "
        "comes after it or it is not used"
    )
