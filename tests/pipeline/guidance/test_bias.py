"""Guidance by a bias on the targets' scores."""

import pytest
import torch
from transformers import PreTrainedModel

import pipeline.encoder.attention
from pipeline.encoder.attention import add_to_mask
from pipeline.guidance.bias import is_target, target_bias
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.schedule import GuidanceSchedule, GuidedStep
from tests.pipeline.guidance import dense
from tests.pipeline.guidance.cases import MIX, PIECES, masks, one_layer, random_rows, targets_of
from tests.pipeline.guidance.dense import heads_in_order, log_attention, target_matrices
from tests.pipeline.guidance.models import (
    FULL,
    HEADS,
    TOKEN_SETS,
    gradients,
    guided_model,
    make_guide,
    rows_of,
    run_guided,
)
from tests.pipeline.tiny_models import FAMILIES, LENGTHS, tiny_inputs, tiny_model

ROWS = random_rows(PIECES)
WIDE = {"delimiters": 1, "first": 1, "last": 1}  # for models that attend everywhere

every_family = pytest.mark.parametrize("family", FAMILIES)
padded_or_full = pytest.mark.parametrize("lengths", [LENGTHS, FULL], ids=["padded", "full"])


@pytest.fixture
def handed_masks() -> list[torch.Tensor | None]:
    """Masks of every layer of the passes made, as the fused kernel gets them."""
    return []


@pytest.fixture
def attentions(
    monkeypatch: pytest.MonkeyPatch, handed_masks: list[torch.Tensor | None]
) -> list[torch.Tensor]:
    """Attention (B, H, N, N) of every layer of the passes made, from what is handed to the fused kernel."""
    seen: list[torch.Tensor] = []
    fused = pipeline.encoder.attention.sdpa_attention_forward

    def watched(module, query, key, value, mask, **kwargs):
        handed_masks.append(mask)
        seen.append(log_attention(query, key, query.shape[-1] ** -0.5, mask).exp().float())
        return fused(module, query, key, value, mask, **kwargs)

    monkeypatch.setattr(pipeline.encoder.attention, "sdpa_attention_forward", watched)
    return seen


@pytest.fixture
def model_token_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formulas look for the tokens that stand in the models' texts."""
    monkeypatch.setattr(dense, "TOKEN_SETS", TOKEN_SETS)


def biased(
    family: str, heads: dict[str, int] | list[dict[str, int]], bias: float, lengths: list[int]
) -> tuple[PreTrainedModel, AttentionGuide, torch.Tensor]:
    """A model after a pass with this bias, and its logits."""
    guide = make_guide(heads)
    model = guided_model(family, guide)
    logits, _ = run_guided(model, guide, GuidedStep(bias=bias), rows_of(lengths))
    return model, guide, logits


# The bias itself


@pytest.mark.parametrize("published", [False, True])
def test_bias_stands_where_the_explicit_targets_are(published: bool) -> None:
    targets, heads = targets_of(MIX, ROWS, published), one_layer(MIX).pattern_of_head(0)
    query = torch.zeros(4, len(heads) + 2, ROWS.size, 8, dtype=torch.bfloat16)

    bias = target_bias(targets, heads, query, 8.0)

    assert bias.shape == (4, len(heads) + 2, ROWS.size, ROWS.size)
    assert bias.dtype == query.dtype
    for head, pattern in enumerate(heads_in_order(MIX)):
        expected = target_matrices(pattern, ROWS, published) > 0
        assert torch.equal(bias[:, head], 8.0 * expected.to(query.dtype))
        assert torch.equal(is_target(targets, heads[head]), expected)
    assert not bias[:, len(heads) :].any()


@pytest.mark.parametrize("mask", list(masks(ROWS)))
def test_bias_is_added_to_what_may_be_attended(mask: str) -> None:
    """Attention with the joint mask is that of scores with the bias, forbidden keys left out."""
    generator = torch.Generator().manual_seed(0)
    query, key, bias = (torch.randn(4, 2, ROWS.size, 8, generator=generator) for _ in range(3))
    bias, given = 20.0 * (bias @ bias.transpose(-1, -2)), masks(ROWS)[mask]

    joint = log_attention(query, key, 0.5, add_to_mask(given, bias)).exp()

    with_bias = torch.softmax(query.double() @ key.double().transpose(-1, -2) * 0.5 + bias, -1)
    if given is None:
        expected = with_bias
    else:
        factor = given.double() if given.dtype == torch.bool else given.double().exp()
        expected = with_bias * factor / (with_bias * factor).sum(-1, keepdim=True)
        assert (joint[(factor == 0.0).expand_as(joint)] == 0.0).all()
    torch.testing.assert_close(joint, expected, rtol=1e-4, atol=1e-8)


def test_bias_of_a_step_decays_with_the_schedule() -> None:
    schedule = GuidanceSchedule(
        weight=0.0, bias=8.0, plateau_steps=4, end_step=8, layers=(0, 1), dense_steps=None,
        layers_per_step=1, seed=0,
    )  # fmt: skip

    assert [schedule.at(step).bias for step in range(10)] == [8.0] * 5 + [6.0, 4.0, 2.0, 0.0, 0.0]


# In models


@every_family
@padded_or_full
@pytest.mark.usefixtures("model_token_sets")
def test_biased_heads_attend_to_their_targets(
    family: str, lengths: list[int], attentions: list[torch.Tensor]
) -> None:
    heads = HEADS if family == "modernbert" else WIDE

    biased(family, heads, 60.0, lengths)

    assert len(attentions) == 3
    for probs in attentions:
        for head, pattern in enumerate(heads_in_order(heads)):
            target = target_matrices(pattern, rows_of(lengths))
            has_target = target.sum(-1) > 0
            mass = (probs[:, head] * (target > 0)).sum(-1)
            assert mass[has_target].min() > 0.999
        assert probs[:, len(heads) :].amax(-1).mean() < 0.9  # the others look where they like


@pytest.mark.parametrize("family", ["roberta", "bert"])
@pytest.mark.usefixtures("model_token_sets")
def test_bias_is_of_the_size_asked_for(family: str, attentions: list[torch.Tensor]) -> None:
    """Odds of a target against any other key grow by exp(bias)."""
    biased(family, {"next": 1}, 0.0, FULL)
    biased(family, {"next": 1}, 2.0, FULL)

    places = torch.arange(23)
    plain, moved = (attentions[layer][:, 0, places, places + 1] for layer in (0, 3))
    torch.testing.assert_close(moved / (1 - moved), plain / (1 - plain) * torch.tensor(2.0).exp())


@every_family
def test_forbidden_keys_stay_forbidden(family: str, attentions: list[torch.Tensor]) -> None:
    """Padding, and what is beyond a local layer's window, for every query that is no padding itself."""
    biased(family, HEADS, 0.0, LENGTHS)
    biased(family, HEADS, 50.0, LENGTHS)

    is_real = torch.arange(24) < torch.tensor(LENGTHS)[:, None]
    for plain, moved in zip(attentions[:3], attentions[3:]):
        forbidden = (plain == 0.0) & is_real[:, None, :, None]
        assert forbidden[~is_real[:, None, None].expand_as(forbidden) & is_real[:, None, :, None]].all()
        assert (moved[forbidden] == 0.0).all()


@every_family
@padded_or_full
def test_zero_bias_is_bit_identical_to_the_untouched_model(family: str, lengths: list[int]) -> None:
    model, _, logits = biased(family, HEADS, 0.0, lengths)
    logits.square().mean().backward()

    untouched = tiny_model(family)
    expected = untouched(**tiny_inputs(lengths)).logits
    expected.square().mean().backward()

    assert torch.equal(logits, expected)
    found, plain = gradients(model), gradients(untouched)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@every_family
@padded_or_full
def test_biased_logits_are_others_and_finite_with_gradients(family: str, lengths: list[int]) -> None:
    model, _, logits = biased(family, HEADS, 8.0, lengths)

    logits.square().mean().backward()

    assert not torch.allclose(logits, tiny_model(family)(**tiny_inputs(lengths)).logits)
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


@padded_or_full
def test_layers_without_guided_heads_are_left_alone(
    lengths: list[int], attentions: list[torch.Tensor], handed_masks: list[torch.Tensor | None]
) -> None:
    """Layer 0 has none: its attention and its mask, on which the kernel depends, are those without bias."""
    table = [{}, {"next": 1}, {"first": 2}]
    for bias in (0.0, 30.0):
        biased("roberta", table, bias, lengths)

    assert torch.equal(attentions[0], attentions[3])
    plain, beside_bias = handed_masks[0], handed_masks[3]
    assert (plain is None) == (beside_bias is None) == (lengths == FULL)
    assert plain is None or plain.dtype == beside_bias.dtype
    assert not torch.allclose(attentions[1][:, 0], attentions[4][:, 0])


def test_a_pass_without_targets_has_no_bias() -> None:
    guide = make_guide(HEADS)
    model = guided_model("bert", guide)
    guide.watch(GuidedStep(bias=8.0), None, training=True)

    logits = model(**tiny_inputs(LENGTHS)).logits

    assert torch.equal(logits, tiny_model("bert")(**tiny_inputs(LENGTHS)).logits)


def test_bias_is_there_again_when_a_layer_is_recomputed() -> None:
    """Activation checkpointing runs layers again in the backward pass, after `collect`."""
    found = []
    for checkpointing in (False, True):
        guide = make_guide(HEADS)
        model = guided_model("bert", guide).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        logits, _ = run_guided(model, guide, GuidedStep(bias=8.0))
        logits.square().mean().backward()
        found.append(gradients(model))

    plain, checkpointed = found
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-7)
