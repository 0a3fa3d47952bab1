"""Output layer and cross-entropy in one, so that the logits of all predictions never exist at once.

For hidden states h_i, output weights W and bias b, z_i = W h_i + b and the label y_i:

    loss_i = logsumexp(z_i) - z_i[y_i],    d loss_i / d z_i = softmax(z_i) - onehot(y_i)

A few rows at a time, logits are made, turned into their gradient and multiplied back into the gradients of h,
W and b, all in the forward pass (the idea of Liger Kernel, Hsu et al. 2024, section 3.2). The three matrix
products are those of the plain way; nothing is computed twice, and what is kept is as large as h and W. The
price is that only the *sum* of the losses can be differentiated: its gradient is known before the backward
pass but for one factor. Liger's own kernel would do on CUDA, but it does not tell the losses row by row.

From the same logits a token can be drawn for each prediction, by inverse distribution: of the tokens that may
be drawn, in the order of their ids, the first one with a cumulated probability above u_i, a number in [0, 1).
It depends on z_i and u_i alone, so neither on what stands beside it nor on the size of a chunk.

Shapes: N predictions, D hidden size, V vocabulary, F ids that are never drawn.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.data.masking import IGNORED_LABEL

# Logits worked on at once, at least: on CPU few, for the caches; an accelerator must be kept busy.
_CHUNK_LOGITS = {"cpu": 1 << 22}
_CHUNK_LOGITS_ELSEWHERE = 1 << 26
_SUMMED_AT_ONCE = 1 << 22  # probabilities of which the running sums, in float64, are there at a time


class Predictions(NamedTuple):
    """What the logits of N predictions say.

    Attributes:
        total: sum of the losses in nats, float32, differentiable.
        losses: each, (N,) float32, 0 where there is nothing to predict; not differentiable.
        is_right: whether each guess is right, (N,) bool.
        sampled_ids: a token drawn for each, (N,) int64; None unless it was asked for.
    """

    total: torch.Tensor
    losses: torch.Tensor
    is_right: torch.Tensor
    sampled_ids: torch.Tensor | None


class Questions(NamedTuple):
    """What an output layer is asked; see `linear_cross_entropy`."""

    labels: torch.Tensor
    uniforms: torch.Tensor | None = None
    allowed_ids: torch.Tensor | None = None


class OutputLayer(nn.Linear):
    """The layer from hidden states to logits of a transformers model, which it becomes in place.

    Attributes:
        questions: None, or what the next calls are asked instead of logits.
    """

    questions: Questions | None

    @staticmethod
    def take_over(decoder: nn.Linear) -> "OutputLayer":
        """Make a model's own output layer one of these; its parameters and their names stay."""
        decoder.__class__ = OutputLayer
        assert isinstance(decoder, OutputLayer)
        decoder.questions = None
        return decoder

    def forward(  # type: ignore[override]
        self, hidden: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor | None, ...]:
        """Logits of `hidden` (..., D), as in every linear layer; with `questions`, the Predictions instead.

        A call of the module, not a function of its weight: ZeRO-3 gathers the weight for just this call, and
        puts its own tensors in the place of those in the tuple that is returned.
        """
        if self.questions is None:
            return super().forward(hidden)
        return tuple(linear_cross_entropy(hidden.flatten(0, -2), self.weight, self.bias, *self.questions))


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    uniforms: torch.Tensor | None = None,
    allowed_ids: torch.Tensor | None = None,
) -> Predictions:
    """Cross-entropy of the logits `hidden @ weight.T + bias`, and tokens drawn from them.

    Args:
        hidden: (N, D).
        weight: (V, D), in the type of `hidden`.
        bias: (V,), or None.
        labels: (N,), IGNORED_LABEL where there is nothing to predict.
        uniforms: a number in [0, 1) for each prediction, (N,), float32 or float64; None to draw nothing.
        allowed_ids: ids that may be drawn, (A,), ascending, see `ids_drawn`; None for all.
    """
    needs_grad = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)
    )
    drawn = None
    if uniforms is not None:
        everything = torch.arange(len(weight), device=uniforms.device)
        drawn = _Drawn(uniforms, everything if allowed_ids is None else allowed_ids)
    return Predictions(*_LinearCrossEntropy.apply(hidden, weight, bias, labels, drawn, needs_grad))


def ids_drawn(special_ids: Sequence[int], vocabulary_size: int) -> torch.Tensor:
    """Ids that stand for text: neither special tokens nor logits beyond the tokenizer's size; int64."""
    left_out = set(special_ids)
    return torch.tensor([i for i in range(vocabulary_size) if i not in left_out], dtype=torch.long)


def chunk_rows(num_logits: int, device_type: str) -> int:
    """Predictions worked on at once, for so many logits each."""
    return -(-_CHUNK_LOGITS.get(device_type, _CHUNK_LOGITS_ELSEWHERE) // num_logits)


class _Drawn:
    """Draws a token for each prediction, chunk by chunk."""

    def __init__(self, uniforms: torch.Tensor, allowed_ids: torch.Tensor) -> None:
        self._uniforms, self._allowed_ids = uniforms, allowed_ids
        self.ids = torch.empty(len(uniforms), dtype=torch.long, device=uniforms.device)

    def add(self, rows: slice, log_probs: torch.Tensor) -> None:
        """Draw for some rows, whose log-probabilities are (n, V) float32."""
        size = max(1, _SUMMED_AT_ONCE // len(self._allowed_ids))
        pieces = zip(*(values.split(size) for values in (log_probs, self._uniforms[rows], self.ids[rows])))
        for of_piece, uniforms, ids in pieces:
            # Left out, not set to 0: running sums on an accelerator need not be monotonous to the last bit,
            # and one that is not could end at a token without probability.
            sums = of_piece.index_select(1, self._allowed_ids).exp_().cumsum(1, dtype=torch.float64)
            aims = uniforms[:, None].double() * sums[:, -1:]
            places = torch.searchsorted(sums, aims, right=True).squeeze(1)
            ids.copy_(self._allowed_ids[places.clamp_(max=len(self._allowed_ids) - 1)])


class _Gradients:
    """Gradients of the sum of the losses, added up chunk by chunk; in float32 where a sum of many is made."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._inputs = (hidden, weight, bias)
        self._hidden = torch.empty_like(hidden)
        self._weight = torch.zeros_like(weight, dtype=torch.float32)
        self._bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)

    def add(self, rows: slice, grad_logits: torch.Tensor) -> None:
        """Take the gradient of some rows' logits, (n, V) float32."""
        hidden, weight, _ = self._inputs
        if self._bias is not None:
            self._bias += grad_logits.sum(0)
        grad_logits = grad_logits.to(weight.dtype)
        torch.mm(grad_logits, weight, out=self._hidden[rows])
        if weight.dtype == torch.float32:
            self._weight.addmm_(grad_logits.T, hidden[rows])
        else:
            self._weight += grad_logits.T @ hidden[rows]

    def of_inputs(self) -> list[torch.Tensor | None]:
        """Of hidden states, weight and bias, in their types."""
        found = (self._hidden, self._weight, self._bias)
        return [
            None if gradient is None or tensor is None else gradient.to(tensor.dtype)
            for gradient, tensor in zip(found, self._inputs)
        ]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        drawn: _Drawn | None,
        needs_grad: bool,
    ) -> tuple[torch.Tensor | None, ...]:
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        is_right = torch.empty(len(labels), dtype=torch.bool, device=hidden.device)
        gradients = _Gradients(hidden, weight, bias) if needs_grad else None
        size = chunk_rows(len(weight), hidden.device.type)
        for begin in range(0, len(labels), size):
            rows = slice(begin, begin + size)
            logits = F.linear(hidden[rows], weight, bias)
            is_right[rows] = logits.argmax(-1) == labels[rows]
            log_probs = torch.log_softmax(logits, -1, dtype=torch.float32)
            is_predicted = labels[rows, None] != IGNORED_LABEL
            label = labels[rows, None].clamp(min=0)
            losses[rows] = torch.where(is_predicted, -log_probs.gather(1, label), 0.0).squeeze(1)
            if drawn is not None:
                drawn.add(rows, log_probs)
            if gradients is not None:
                gradients.add(rows, _grad_of_logits(log_probs, label, is_predicted))
        ctx.save_for_backward(*([] if gradients is None else gradients.of_inputs()))
        sampled_ids = None if drawn is None else drawn.ids
        ctx.mark_non_differentiable(*(t for t in (losses, is_right, sampled_ids) if t is not None))
        return losses.sum(), losses, is_right, sampled_ids

    @staticmethod
    def backward(ctx: Any, grad_sum: torch.Tensor, *_others: Any) -> tuple[torch.Tensor | None, ...]:
        scaled = [None if saved is None else saved * grad_sum.to(saved.dtype) for saved in ctx.saved_tensors]
        return *scaled, None, None, None


def _grad_of_logits(log_probs: torch.Tensor, label: torch.Tensor, is_predicted: torch.Tensor) -> torch.Tensor:
    """Of labels (n, 1), in the place of `log_probs` (n, V); zeros where nothing is predicted."""
    gradient = log_probs.exp_()
    gradient.scatter_add_(1, label, torch.full_like(label, -1.0, dtype=torch.float32))
    return gradient.masked_fill_(~is_predicted, 0.0)
