"""Whether a model does here what it does by itself, found out by trying it on a few tokens.

No list of families says what can be trained. The first check compares what masked_lm.py makes of a model with
the model's own loss and logits; the others are for what only some runs ask for. They change no weight, draw
no random numbers, and cost a few forward passes of sixteen tokens.

Shapes: B rows, T positions, K predicted positions of a row, V vocabulary, D hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from pipeline.data.documents import Documents
from pipeline.data.masking import IGNORED_LABEL
from pipeline.encoder.attention import AttentionInputs, install_taps
from pipeline.encoder.attention_scope import attention_within_documents
from pipeline.encoder.families import decoder_problem, usable_positions
from pipeline.encoder.linear_cross_entropy import OutputLayer, Predictions, Questions
from pipeline.encoder.masked_lm import MaskedPredictor
from pipeline.errors import UserError

_LENGTH = 8
_POSITIONS = ((1, 4, 6), (2, 5, 7))
_CHANGED_FROM = 3  # behind the first prediction of each row
_DOCUMENTS = (3, 5)  # tokens of the two in a row
_TOLERANCE = 1e-4  # relative; what is not understood is off by far more


class _CountingTap:
    """An attention tap that writes down when it is shown its layer."""

    adds_bias = False
    needs_hidden = False

    def __init__(self, layer: int, seen: list[int]) -> None:
        self._layer, self._seen = layer, seen

    def observe(self, _inputs: AttentionInputs) -> None:
        self._seen.append(self._layer)

    def bias(self, _query: torch.Tensor) -> None:
        return None


def check_network(model: PreTrainedModel, *, needs_taps: bool, keeps_documents_apart: bool) -> None:
    """All checks that a run needs; a UserError names the first that fails. Taps that the model has may go."""
    if isinstance(model.get_output_embeddings(), OutputLayer):
        check_predictions(model)
    if needs_taps:
        check_taps(model)
    if keeps_documents_apart:
        check_documents(model)


@torch.no_grad()
def check_predictions(model: PreTrainedModel, *, is_trained: bool = False) -> None:
    """Raise a UserError unless losses and guesses at chosen positions are those of the model's own forward.

    A model that takes fewer than eight tokens is let through.

    Args:
        model: a transformers `...ForMaskedLM` in float32.
        is_trained: its weights are not those it begins with, so every token must count.
    """
    if (problem := decoder_problem(model.config)) is not None:
        raise UserError(problem)
    if usable_positions(model.config) < _LENGTH:
        return
    with _trying(model, "be trained"):
        predict = MaskedPredictor(model)
        tokens = _tokens(predict.output_layer.out_features, model)
        positions = torch.tensor(_POSITIONS, device=tokens.device)
        own = _own_logits(model, tokens, positions)
        labels = tokens.gather(1, positions)
        labels[:, 0] = own[:, 0].argmax(-1)  # or no guess would be right
        dense = torch.full_like(tokens, IGNORED_LABEL).scatter(1, positions, labels)
        mean = model(input_ids=tokens, labels=dense)[0]
        found = predict(positions, Questions(labels.flatten()), input_ids=tokens)
        _compare(type(model).__name__, found, own, mean, labels)
        later, earlier = tokens.clone(), tokens.clone()
        later[:, _CHANGED_FROM:] = tokens[:, _CHANGED_FROM:].roll(1, 1)
        earlier[:, :_CHANGED_FROM] = tokens[:, :_CHANGED_FROM].roll(1, 1)
        sees_later = not torch.equal(_own_logits(model, later, positions)[:, 0], own[:, 0])
        sees_earlier = not torch.equal(_own_logits(model, earlier, positions)[:, -1], own[:, -1])
        # Some families begin with attention that gives nothing.
        if not sees_later and (sees_earlier or is_trained):
            raise UserError(
                f"{type(model).__name__} cannot be trained: what it predicts for a token does not depend on "
                "those after it, so that it is no encoder"
            )


@torch.no_grad()
def check_taps(model: PreTrainedModel) -> None:
    """Raise a UserError unless each layer's attention can be tapped. Taps it has already are replaced."""
    layers = list(range(model.config.num_hidden_layers))
    seen: list[int] = []
    try:
        install_taps(model, [[_CountingTap(layer, seen)] for layer in layers])
    except ValueError as error:
        raise UserError(str(error)) from error
    with _trying(model, "be looked at"):
        model.base_model(input_ids=_tokens(model.config.vocab_size, model))
    install_taps(model, [])
    if seen != layers:
        raise UserError(
            f"{type(model).__name__} does not compute each layer's attention once by transformers' attention "
            "interface, so that its heads cannot be looked at"
        )


@torch.no_grad()
def check_documents(model: PreTrainedModel) -> None:
    """Raise a UserError unless documents in one row can be kept apart: each as in a row of its own.

    Taps that the model has already are replaced.
    """
    check_taps(model)  # they are kept apart by sequence where that can be, in an attention of ours
    name = type(model).__name__
    with _trying(model, "keep the documents of a row apart"):
        tokens = _tokens(model.config.vocab_size, model)[:1]
        borders = torch.tensor([0, *_DOCUMENTS], device=tokens.device).cumsum(0)
        starts, ends = (
            torch.repeat_interleave(border, borders.diff()).int()[None]
            for border in (borders[:-1], borders[1:])
        )
        documents = Documents(starts=starts, ends=ends)
        inputs = attention_within_documents(
            model, documents, documents.borders(), has_bias=False, training=False
        )
        together = model.base_model(input_ids=tokens, **inputs)[0]
        alone = [model.base_model(input_ids=part)[0] for part in tokens.split(_DOCUMENTS, 1)]
    if not _is_near(together, torch.cat(alone, 1)):
        raise UserError(
            f"{name} does not keep the documents of a row apart: with their borders and positions given, its "
            "hidden states are not those of each document in a row of its own"
        )


def _tokens(num_ids: int, model: PreTrainedModel) -> torch.Tensor:
    """Two rows of different ordinary-looking ids, (B, T)."""
    ids = (torch.arange(2 * _LENGTH) * 37 + 11) % num_ids
    padding = getattr(model.config, "pad_token_id", None)
    if padding is not None:
        ids = torch.where(ids == padding, (ids + 1) % num_ids, ids)
    return ids.view(2, _LENGTH).to(next(model.parameters()).device)


def _own_logits(model: PreTrainedModel, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """What the model itself says at `positions`, (B, K, V) float32."""
    logits = model(input_ids=tokens)[0].float()
    return logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[-1]))


def _compare(
    name: str, found: Predictions, own: torch.Tensor, mean: torch.Tensor, labels: torch.Tensor
) -> None:
    losses = -own.log_softmax(-1).gather(2, labels[..., None]).flatten()
    for what, ours, theirs in (
        ("loss", found.total / labels.numel(), mean.float()),
        ("largest loss of a token", found.losses.max(), losses.max()),
    ):
        if not _is_near(ours, theirs):
            raise UserError(
                f"{name} cannot be trained: its {what} is {theirs.item():.6g} by itself and "
                f"{ours.item():.6g} if only the predicted positions reach its head"
            )
    best, second = own.topk(2, -1).values.unbind(-1)
    is_clear = ((best - second) > _TOLERANCE * best.abs()).flatten()
    differ = (found.is_right != (own.argmax(-1) == labels).flatten()) & is_clear
    if not _is_near(found.losses, losses) or differ.any():
        raise UserError(
            f"{name} cannot be trained: it guesses otherwise if only predicted positions reach its head"
        )


def _is_near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    # Equal if both are no numbers: what weights a checkpoint has is not asked here.
    return torch.allclose(ours, theirs, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


@contextmanager
def _trying(model: PreTrainedModel, what: str) -> Iterator[None]:
    """Evaluation mode for a while; an error of the model's code, of any kind, becomes a UserError."""
    was_training = model.training
    model.eval()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{type(model).__name__} cannot {what}: a forward pass of a few tokens ends with "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        model.train(was_training)
