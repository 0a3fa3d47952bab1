"""Tiny real models with a guide on their attention, and the texts they read."""

import torch
from transformers import PreTrainedModel

from pipeline.encoder.attention import install_taps
from pipeline.guidance.allocation import allocate
from pipeline.guidance.guide import AttentionGuide, GuidanceTerms
from pipeline.guidance.row_terms import LossForm
from pipeline.guidance.schedule import GuidedStep
from tests.pipeline.guidance.cases import documents_of
from tests.pipeline.guidance.dense import Rows
from tests.pipeline.tiny_models import LENGTH, LENGTHS, tiny_inputs, tiny_model

ALL_LAYERS = (0, 1, 2)
FULL = [LENGTH] * 4
# ModernBERT's local layers reach four tokens: there, only targets that are never further.
HEADS = {"next": 1, "previous": 1, "offset-3": 1}
TOKEN_SETS = {"delimiters": tuple(range(5, 20)), "sentence_ends": (20, 21, 22, 30)}


def rows_of(lengths: list[int], pieces: list[list[int]] | None = None) -> Rows:
    """The rows of `tiny_inputs`, each one document or cut into pieces that sum to its length."""
    pieces = pieces or [[length] for length in lengths]
    assert [sum(row) for row in pieces] == lengths
    return Rows(tiny_inputs(lengths)["input_ids"], pieces)


def make_guide(
    heads: dict[str, int] | list[dict[str, int]], form: LossForm | None = None, as_published: bool = False
) -> AttentionGuide:
    """`heads` of every layer, or one for each."""
    table = heads if isinstance(heads, list) else [heads] * len(ALL_LAYERS)
    return AttentionGuide(allocate(table, TOKEN_SETS), form, as_published)


def guided_model(family: str, guide: AttentionGuide, **settings: object) -> PreTrainedModel:
    model = tiny_model(family, **settings)
    install_taps(model, [[tap] for tap in guide.taps])
    return model


def run_guided(
    model: PreTrainedModel, guide: AttentionGuide, guided: GuidedStep, rows: Rows | None = None
) -> tuple[torch.Tensor, GuidanceTerms]:
    """Logits and terms of one forward pass."""
    rows = rows or rows_of(LENGTHS)
    guide.watch(guided, guide.targets(rows.ids, documents_of(rows)), model.training)
    logits = model(**tiny_inputs(rows.lengths)).logits
    return logits, guide.collect(torch.device("cpu"))


def eager_attentions(model: PreTrainedModel, lengths: list[int]) -> tuple[torch.Tensor, ...]:
    """Attention (B, H, N, N) of every layer, as transformers itself returns it, differentiable."""
    model.set_attn_implementation("eager")
    return model(**tiny_inputs(lengths), output_attentions=True).attentions


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
