"""The guide inside real models of every family."""

from collections.abc import Sequence

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from pipeline.attention import install_tap
from pipeline.guidance.guide import AttentionGuide, GuidanceTerms
from pipeline.guidance.patterns import assign_heads
from tests.pipeline.guidance.dense import attention_probs, errors_and_mass
from tests.pipeline.tiny_models import FAMILIES, LENGTH, LENGTHS, tiny_inputs, tiny_model

HEADS = {"next": 1, "previous": 1, "first": 1}
ALL_LAYERS = (0, 1, 2)

every_family = pytest.mark.parametrize("family", FAMILIES)
padded_or_full = pytest.mark.parametrize("lengths", [LENGTHS, [LENGTH] * 4], ids=["padded", "full"])


class Recorder:
    """A tap that keeps what it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, torch.Tensor]] = []

    def observe(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, scaling: float, mask: torch.Tensor | None
    ) -> None:
        self.seen.append((layer, attention_probs(query, key, scaling, mask)))


def make_guide(heads: dict[str, int]) -> AttentionGuide:
    return AttentionGuide(assign_heads(heads), torch.device("cpu"))


def guided_model(
    family: str, heads: dict[str, int], **settings: object
) -> tuple[PreTrainedModel, AttentionGuide]:
    model, guide = tiny_model(family, **settings), make_guide(heads)
    install_tap(model, guide)
    return model, guide


def eager_attentions(family: str, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Attention probabilities (B, H, N, N) of every layer, as transformers itself returns them."""
    model = tiny_model(family)
    model.set_attn_implementation("eager")
    return model(**inputs, output_attentions=True).attentions


def run_guided(
    model: PreTrainedModel, guide: AttentionGuide, layers: Sequence[int], lengths: list[int]
) -> tuple[torch.Tensor, GuidanceTerms]:
    guide.watch(layers, torch.tensor(lengths))
    logits = model(**tiny_inputs(lengths)).logits
    return logits, guide.collect(torch.device("cpu"))


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@every_family
@padded_or_full
def test_tap_is_shown_every_layer_once_with_its_true_attention(family: str, lengths: list[int]) -> None:
    inputs, recorder = tiny_inputs(lengths), Recorder()
    model = tiny_model(family)
    assert install_tap(model, recorder) == 3

    model(**inputs)

    assert [layer for layer, _ in recorder.seen] == [0, 1, 2]
    for (_, shown), expected in zip(recorder.seen, eager_attentions(family, inputs)):
        for index, length in enumerate(lengths):
            assert torch.allclose(
                shown[index, :, :length].float(), expected[index, :, :length], rtol=1e-4, atol=1e-6
            )


@every_family
@padded_or_full
def test_terms_equal_the_dense_formula_on_the_models_own_attention(family: str, lengths: list[int]) -> None:
    model, guide = guided_model(family, HEADS)

    _, terms = run_guided(model, guide, ALL_LAYERS, lengths)

    for layer, probs in enumerate(eager_attentions(family, tiny_inputs(lengths))):
        errors, mass = errors_and_mass(probs.double(), HEADS, lengths)
        assert torch.allclose(terms.errors[layer].double(), errors, rtol=1e-4)
        assert torch.allclose(terms.mass[layer].double(), mass, rtol=1e-4)


@every_family
def test_gradients_equal_those_of_the_dense_formula(family: str) -> None:
    model, guide = guided_model(family, HEADS)
    _, terms = run_guided(model, guide, ALL_LAYERS, LENGTHS)
    terms.errors.sum().backward()

    dense_model = tiny_model(family)
    dense_model.set_attn_implementation("eager")
    attentions = dense_model(**tiny_inputs(LENGTHS), output_attentions=True).attentions
    sum(errors_and_mass(probs.double(), HEADS, LENGTHS)[0].sum() for probs in attentions).backward()

    expected = gradients(dense_model)
    for name, gradient in gradients(model).items():
        if name in expected:  # the last layer's output plays no part
            scale = expected[name].norm()
            assert (gradient - expected[name]).norm() <= 1e-4 * scale + 1e-5, name
    assert any("query" in name or "Wqkv" in name for name in expected)


@every_family
@pytest.mark.parametrize("layers", [(), (1,), ALL_LAYERS], ids=["no layer", "one layer", "all layers"])
def test_logits_are_bit_identical_to_the_untouched_models(family: str, layers: tuple[int, ...]) -> None:
    for lengths in (LENGTHS, [LENGTH] * 4):
        model, guide = guided_model(family, HEADS)

        logits, _ = run_guided(model, guide, layers, lengths)

        assert torch.equal(logits, tiny_model(family)(**tiny_inputs(lengths)).logits)


@every_family
def test_gradients_without_watched_layers_are_bit_identical_to_the_untouched_models(family: str) -> None:
    model, guide = guided_model(family, HEADS)
    run_guided(model, guide, (), LENGTHS)[0].square().mean().backward()

    untouched = tiny_model(family)
    untouched(**tiny_inputs(LENGTHS)).logits.square().mean().backward()

    found, expected = gradients(model), gradients(untouched)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_dropout_draws_are_the_untouched_models() -> None:
    """A tap must not consume random numbers: with weight 0 a run is the unguided run."""
    settings = {"dropout": 0.2, "attention_dropout": 0.2}
    model, guide = guided_model("roberta", HEADS, **settings)
    torch.manual_seed(3)
    logits, _ = run_guided(model.train(), guide, ALL_LAYERS, LENGTHS)

    torch.manual_seed(3)
    untouched = tiny_model("roberta", **settings).train()(**tiny_inputs(LENGTHS)).logits

    assert torch.equal(logits, untouched)


def test_dropout_does_not_reach_the_guided_attention() -> None:
    """Attention is guided before its dropout, so that its target can be reached."""
    model, guide = guided_model("bert", HEADS, attention_dropout=0.5)

    _, in_training = run_guided(model.train(), guide, (0,), LENGTHS)
    _, in_evaluation = run_guided(model.eval(), guide, (0,), LENGTHS)

    assert torch.equal(in_training.errors, in_evaluation.errors)


@every_family
def test_activation_checkpointing_changes_no_gradient(family: str) -> None:
    found = []
    for checkpointing in (False, True):
        model, guide = guided_model(family, HEADS)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        logits, terms = run_guided(model, guide, (0, 2), LENGTHS)
        (logits.square().mean() + terms.errors.mean()).backward()
        found.append((terms.errors.detach(), gradients(model)))

    (plain_errors, plain), (checkpointed_errors, checkpointed) = found
    assert torch.equal(plain_errors, checkpointed_errors)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, checkpointed[name], rtol=1e-5, atol=1e-7), name


def test_recomputation_leaves_nothing_to_collect() -> None:
    """What is recomputed in the backward pass holds a layer's query and key: it must not be kept."""
    model, guide = guided_model("bert", HEADS)
    model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    _, terms = run_guided(model, guide, ALL_LAYERS, LENGTHS)

    terms.errors.sum().backward()

    assert guide.collect(torch.device("cpu")).errors.shape == (0, 3)


def test_guidance_of_a_layer_does_not_pull_the_layers_above() -> None:
    model, guide = guided_model("bert", HEADS)

    _, terms = run_guided(model, guide, (1,), LENGTHS)
    terms.errors.sum().backward()

    pulled = {name.split(".")[3] for name in gradients(model) if ".layer." in name}
    assert pulled == {"0", "1"}


def test_only_guided_heads_are_pulled() -> None:
    model, guide = guided_model("bert", {"next": 1, "first": 1})

    _, terms = run_guided(model, guide, (0,), LENGTHS)
    terms.errors.sum().backward()

    attention = model.bert.encoder.layer[0].attention.self
    by_head = attention.query.weight.grad.reshape(4, 8, 32).abs().sum((1, 2))
    assert (by_head[:2] > 0).all()
    assert by_head[2:].tolist() == [0.0, 0.0]


def test_terms_come_in_the_order_of_the_layers() -> None:
    model, guide = guided_model("roberta", HEADS)
    _, everything = run_guided(model, guide, ALL_LAYERS, LENGTHS)

    _, some = run_guided(model, guide, (2, 0), LENGTHS)

    assert torch.equal(some.errors, everything.errors[[0, 2]])
    assert torch.equal(some.mass, everything.mass[[0, 2]])


def test_nothing_watched_nothing_collected() -> None:
    model, guide = guided_model("roberta", HEADS)
    run_guided(model, guide, ALL_LAYERS, LENGTHS)

    _, terms = run_guided(model, guide, (), LENGTHS)

    assert terms.errors.shape == terms.mass.shape == (0, 3)


def test_guide_without_heads_counts_nothing() -> None:
    model, guide = guided_model("roberta", {})

    _, terms = run_guided(model, guide, (), LENGTHS)

    assert guide.num_heads == 0
    assert terms.errors.shape == (0, 0)
    assert guide.count_valid(torch.tensor(LENGTHS)).shape == (0,)


def test_valid_rows_are_counted_per_head() -> None:
    guide = make_guide({"next": 2, "first": 1, "offset-3": 1})

    counts = guide.count_valid(torch.tensor([24, 2]))

    assert counts.tolist() == [23 + 1, 23 + 1, 24 + 2, 21 + 0]
    assert counts.dtype == torch.float64


def test_time_spent_is_measured() -> None:
    model, guide = guided_model("roberta", HEADS)
    _, terms = run_guided(model, guide, ALL_LAYERS, LENGTHS)
    forward_seconds = guide.timer.take()

    terms.errors.sum().backward()

    assert forward_seconds > 0.0
    assert guide.timer.take() > 0.0
    assert guide.timer.take() == 0.0


def test_family_that_cannot_be_tapped_is_refused() -> None:
    config = AutoConfig.for_model("distilbert", vocab_size=97, n_layers=2, n_heads=4, dim=32, hidden_dim=64)
    model = AutoModelForMaskedLM.from_config(config)

    with pytest.raises(ValueError, match=r"DistilBertForMaskedLM.*not supported"):
        install_tap(model, Recorder())
