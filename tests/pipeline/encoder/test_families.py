"""Encoders of many families: sizes by their own keys, and the same loss and gradients as by themselves."""

import logging
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.data.masking import IGNORED_LABEL
from pipeline.encoder.compilation import compile_blocks_if_possible
from pipeline.encoder.families import (
    attention_dropout,
    attention_reach,
    family_problem,
    first_position,
    has_rotary_positions,
    hidden_dropout,
    modeling_module,
    usable_positions,
)
from pipeline.encoder.linear_cross_entropy import Questions
from pipeline.encoder.masked_lm import MaskedPredictor, predict_at
from pipeline.encoder.model import model_config
from pipeline.encoder.self_check import check_documents, check_network, check_predictions, check_taps
from pipeline.errors import UserError
from pipeline.objectives.mlm.module import MaskedLanguageModeling
from pipeline.processes.cluster import Cluster
from tests.pipeline.modules import batch_of_rows
from tests.pipeline.tiny_models import LENGTH, VOCABULARY, tiny_inputs, tiny_model, tiny_section

DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
UNTIED = {"tie_word_embeddings": False}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in ("bert", "roberta", "modernbert", "distilbert", "xlm-roberta")},
    **{family: (family, {}) for family in ("camembert", "mpnet", "electra", "deberta-v2", "albert")},
    **{family: (family, {}) for family in ("eurobert", "nomic_bert", "jina_embeddings_v3", "gte")},
    **{family: (family, {}) for family in ("roformer", "fnet", "xlm")},
    "deberta-v2, disentangled": ("deberta-v2", DISENTANGLED),
    "electra, narrow embedding": ("electra", {"embedding_size": 16}),
    "bert, untied": ("bert", UNTIED),
    "roberta, untied": ("roberta", UNTIED),
    "modernbert, untied": ("modernbert", UNTIED),
    "distilbert, untied": ("distilbert", UNTIED),
}
TAPPED = ("bert", "roberta", "distilbert", "electra", "xlm-roberta", "camembert", "eurobert", "nomic_bert")
NOT_TAPPED = ("albert", "mpnet", "deberta-v2", "xlm", "fnet")
every_case = pytest.mark.parametrize("case", CASES)
POSITIONS = torch.tensor([[1, 22, 7], [8, 2, 0], [5, 16, 3], [1, 0, 0]])
IS_ASKED = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)


def built(case: str, **settings: Any) -> Any:
    family, options = CASES[case]
    if family == "modernbert":
        options = {"local_attention": 8, **options}
    return tiny_model(family, options=options, **settings)


def labels_and_dense() -> tuple[torch.Tensor, torch.Tensor]:
    answers = torch.randint(5, 97, POSITIONS.shape, generator=torch.Generator().manual_seed(2))
    labels = torch.where(IS_ASKED, answers, IGNORED_LABEL)
    dense = torch.full((len(POSITIONS), LENGTH), IGNORED_LABEL)
    for row, slot in IS_ASKED.nonzero().tolist():
        dense[row, POSITIONS[row, slot]] = labels[row, slot]
    return labels, dense


@every_case
def test_losses_and_gradients_are_the_models_own_over_two_steps(case: str) -> None:
    labels, dense = labels_and_dense()
    inputs = tiny_inputs()
    ours, theirs = MaskedLanguageModeling(built(case)), built(case)
    batch = batch_of_rows(inputs["input_ids"], inputs["attention_mask"].sum(1), POSITIONS, labels)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (ours, theirs)]

    for _step in range(2):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        total = ours(batch, 0).terms["mlm"].sum
        (total / IS_ASKED.sum()).backward()
        expected = theirs(**inputs, labels=dense).loss
        expected.backward()

        assert total.item() / IS_ASKED.sum().item() == pytest.approx(expected.item(), rel=1e-4)
        wanted = dict(theirs.named_parameters())
        largest = max(p.grad.norm() for p in wanted.values() if p.grad is not None)
        for name, parameter in ours.model.named_parameters():
            reference = wanted[name].grad
            if reference is None:
                assert parameter.grad is None or not parameter.grad.any(), name
            else:
                difference = (parameter.grad - reference).norm()
                assert difference <= 1e-3 * reference.norm() + 1e-5 * largest, name
        for optimizer in optimizers:
            optimizer.step()


@every_case
def test_the_model_passes_its_check_and_is_unchanged(case: str) -> None:
    model = built(case).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)

    check_predictions(model)

    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@every_case
def test_sizes_and_rates_of_the_recipe_are_those_of_the_model(case: str) -> None:
    model = built(case, dropout=0.3, attention_dropout=0.0)
    config = model.config

    assert (config.num_hidden_layers, config.hidden_size) == (3, 32)
    assert usable_positions(config) >= LENGTH
    assert attention_dropout(config) == 0.0
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert 0.3 in rates or hidden_dropout(config) == 0.0 or not rates
    if "max_position_embeddings" in config.to_dict():
        # One more than fits a table of positions; rotary and relative ones have none.
        assert usable_positions(config) == LENGTH
    tables = [
        module.num_embeddings
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    assert all(size == LENGTH + first_position(config) for size in tables)


def test_sizes_have_the_names_of_the_family() -> None:
    config = model_config(tiny_section("distilbert"), VOCABULARY, LENGTH)

    assert (config.n_layers, config.dim, config.n_heads, config.hidden_dim) == (3, 32, 4, 64)
    assert (config.vocab_size, config.pad_token_id) == (128, VOCABULARY.pad_id)


def test_windows_of_any_family() -> None:
    longformer = model_config(tiny_section("longformer", options={"attention_window": 6}), VOCABULARY, LENGTH)

    assert attention_reach(longformer, 1) == 3
    assert attention_reach(model_config(tiny_section("eurobert"), VOCABULARY, LENGTH), 0) is None


@pytest.mark.parametrize(("family", "rotary"), [("modernbert", True), ("eurobert", True), ("electra", False)])
def test_families_with_rotary_positions(family: str, rotary: bool) -> None:
    assert has_rotary_positions(family) == rotary


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("robreta", "did you mean roberta?"),
        ("RoBERTa", "did you mean roberta?"),
        ("nomic-bert", "did you mean nomic_bert?"),
        ("xlm_roberta", "did you mean xlm-roberta?"),
        ("zzz", "the model types are albert, "),
        ("gpt2", "no masked-LM class"),
        ("bart", "an encoder with a decoder"),
        ("perceiver", "no num_hidden_layers"),
    ],
)
def test_what_is_no_family_is_told_with_what_may_be_meant(family: str, words: str) -> None:
    problem = family_problem(family)

    assert problem is not None
    assert repr(family) in problem
    assert words in problem


def test_the_module_of_a_family() -> None:
    assert modeling_module("xlm-roberta") == "transformers.models.xlm_roberta.modeling_xlm_roberta"


# Refusals


def mobilebert() -> Any:
    options = {"embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32}
    return tiny_model("mobilebert", hidden_size=64, intermediate_size=64, options=options)


@pytest.mark.parametrize("family", ["esm", "mobilebert"])
def test_a_head_that_does_more_than_its_output_layer_is_refused(family: str) -> None:
    model = mobilebert() if family == "mobilebert" else tiny_model(family)

    with pytest.raises(UserError, match=type(model).__name__) as told:
        check_predictions(model)

    assert "output layer" in str(told.value)
    assert model(tiny_inputs()["input_ids"][:, :8]).logits.shape[:2] == (4, 8)  # it is as it was


def test_a_head_that_mixes_positions_is_refused() -> None:
    model = tiny_model("bert")
    transform = model.cls.predictions.transform
    transform.register_forward_hook(lambda _module, _inputs, hidden: hidden + hidden.mean(1, keepdim=True))

    with pytest.raises(UserError, match=r"BertForMaskedLM cannot be trained: its loss is .* by itself"):
        check_predictions(model)


def test_logits_changed_after_the_output_layer_are_refused() -> None:
    model = tiny_model("bert")
    model.cls.register_forward_hook(lambda _module, _inputs, logits: logits * 2)

    with pytest.raises(UserError, match="more comes after it"):
        check_predictions(model)


def test_a_decoder_is_refused() -> None:
    model = tiny_model("bert")
    for layer in model.bert.encoder.layer:
        layer.attention.self.is_causal = True
    model.config.is_decoder = True

    with pytest.raises(UserError, match="'bert' with is_decoder: true"):
        check_predictions(model)


@pytest.mark.parametrize("family", TAPPED)
def test_taps_and_documents_apart_where_attention_is_transformers_interface(family: str) -> None:
    model = tiny_model(family)

    check_taps(model)
    check_documents(model)


@pytest.mark.parametrize("family", NOT_TAPPED)
def test_without_taps_a_model_trains_but_is_not_looked_at(family: str) -> None:
    model = tiny_model(family)

    check_network(model, needs_taps=False, keeps_documents_apart=False)
    with pytest.raises(UserError, match=type(model).__name__):
        check_network(model, needs_taps=True, keeps_documents_apart=False)
    with pytest.raises(UserError, match=type(model).__name__):
        check_network(model, needs_taps=False, keeps_documents_apart=True)


def test_documents_that_a_model_would_mix_are_refused() -> None:
    model = tiny_model("bert")
    model.bert.embeddings.register_forward_pre_hook(
        lambda _module, args, kwargs: (args, kwargs | {"position_ids": None}), with_kwargs=True
    )

    with pytest.raises(UserError, match="BertForMaskedLM does not keep the documents of a row apart"):
        check_documents(model)


def test_shared_layers_run_uncompiled_with_a_warning(
    alone: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.encoder.compilation.why_not", lambda device, recomputes: None)

    with caplog.at_level(logging.WARNING):
        assert not compile_blocks_if_possible(tiny_model("albert"), alone)

    assert "AlbertForMaskedLM has no blocks of its own for each layer" in caplog.text


# The predictor


def test_nothing_is_left_behind_by_a_call_or_by_one_that_fails() -> None:
    model, inputs = tiny_model("bert"), tiny_inputs()
    predict = MaskedPredictor(model)
    labels, _ = labels_and_dense()
    expected = model(**inputs).logits

    predict(POSITIONS, Questions(labels.flatten()), **inputs)
    with pytest.raises(IndexError):
        predict(POSITIONS, Questions(labels.flatten()), input_ids=inputs["input_ids"] + 1000)

    assert torch.equal(model(**inputs).logits, expected)
    assert predict.output_layer.questions is None
    assert not model.base_model._forward_hooks


def test_samples_come_from_the_same_logits() -> None:
    model, inputs = tiny_model("roberta").eval(), tiny_inputs()
    labels, _ = labels_and_dense()
    uniforms = torch.rand(labels.numel(), generator=torch.Generator().manual_seed(4))
    forbidden = torch.tensor([0, 1, 2, 3, 4, *range(97, 128)])
    logits = model(**inputs).logits.gather(1, POSITIONS[..., None].expand(-1, -1, 128)).flatten(0, 1)
    sums = logits.softmax(-1).index_fill(1, forbidden, 0.0).double().cumsum(1)
    expected = (sums > uniforms[:, None] * sums[:, -1:]).int().argmax(1)

    found = predict_at(model, POSITIONS, Questions(labels.flatten(), uniforms, torch.arange(5, 97)), **inputs)

    assert found.sampled_ids is not None
    assert found.sampled_ids.tolist() == expected.tolist()
