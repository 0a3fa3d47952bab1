"""What the guide must not change: logits, dropout draws, recomputation, and a model's compilation."""

import pytest
import torch

from pipeline.encoder.attention import AttentionInputs, install_taps
from pipeline.guidance.schedule import GuidedLayer, GuidedStep
from pipeline.guidance.timer import CLOCK
from tests.pipeline.guidance.cases import documents_of
from tests.pipeline.guidance.dense import log_attention
from tests.pipeline.guidance.models import (
    ALL_LAYERS,
    FULL,
    HEADS,
    eager_attentions,
    gradients,
    guided_model,
    make_guide,
    rows_of,
    run_guided,
)
from tests.pipeline.tiny_models import FAMILIES, LENGTHS, tiny_inputs, tiny_model

EVERY_LAYER = GuidedStep.looking_at(ALL_LAYERS)
SOME_ROWS = GuidedStep(layers=(GuidedLayer(layer=1, probability=0.5, first_row=2),), row_stride=3)

every_family = pytest.mark.parametrize("family", FAMILIES)
padded_or_full = pytest.mark.parametrize("lengths", [LENGTHS, FULL], ids=["padded", "full"])


@pytest.fixture
def fresh_compiler() -> None:
    """No graphs of other tests, of which there may be only so many."""
    torch.compiler.reset()


class Recorder:
    """A tap that keeps what it is shown, in a list that layers share, with its own number."""

    def __init__(self, layer: int, seen: list[tuple[int, torch.Tensor]]) -> None:
        self.layer, self.seen = layer, seen

    adds_bias = False
    needs_hidden = False

    def observe(self, inputs: AttentionInputs) -> None:
        assert inputs.spans is None
        found = log_attention(inputs.query, inputs.key, inputs.scaling, inputs.mask).exp()
        self.seen.append((self.layer, found))

    def bias(self, query: torch.Tensor) -> None:
        return None


def recorders(num_layers: int) -> tuple[list[Recorder], list[tuple[int, torch.Tensor]]]:
    seen: list[tuple[int, torch.Tensor]] = []
    return [Recorder(layer, seen) for layer in range(num_layers)], seen


@every_family
@padded_or_full
def test_tap_is_shown_every_layer_once_with_its_true_attention(family: str, lengths: list[int]) -> None:
    (taps, seen), model = recorders(3), tiny_model(family)
    install_taps(model, [[tap] for tap in taps])

    model(**tiny_inputs(lengths))

    assert [layer for layer, _ in seen] == [0, 1, 2]
    for (_, shown), expected in zip(seen, eager_attentions(tiny_model(family), lengths)):
        for index, length in enumerate(lengths):
            found = shown[index, :, :length].float()
            torch.testing.assert_close(found, expected[index, :, :length], rtol=1e-4, atol=1e-6)


@every_family
@padded_or_full
@pytest.mark.parametrize(
    "guided", [GuidedStep(), SOME_ROWS, EVERY_LAYER], ids=["no layer", "some rows", "all layers"]
)
def test_logits_are_bit_identical_to_the_untouched_models(
    family: str, lengths: list[int], guided: GuidedStep
) -> None:
    guide = make_guide(HEADS)

    logits, _ = run_guided(guided_model(family, guide), guide, guided, rows_of(lengths))

    assert torch.equal(logits, tiny_model(family)(**tiny_inputs(lengths)).logits)


@every_family
def test_gradients_without_guided_layers_are_bit_identical_to_the_untouched_models(family: str) -> None:
    guide, untouched = make_guide(HEADS), tiny_model(family)
    model = guided_model(family, guide)
    run_guided(model, guide, GuidedStep())[0].square().mean().backward()

    untouched(**tiny_inputs(LENGTHS)).logits.square().mean().backward()

    found, expected = gradients(model), gradients(untouched)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@every_family
def test_dropout_draws_are_the_untouched_models(family: str) -> None:
    """A tap must not consume random numbers: with weight 0 a run is the unguided run."""
    settings = {"dropout": 0.2, "attention_dropout": 0.2}
    guide = make_guide(HEADS)
    model = guided_model(family, guide, **settings).train()
    torch.manual_seed(3)
    logits, _ = run_guided(model, guide, EVERY_LAYER)

    torch.manual_seed(3)
    untouched = tiny_model(family, **settings).train()(**tiny_inputs(LENGTHS)).logits

    assert torch.equal(logits, untouched)


@every_family
def test_activation_checkpointing_changes_no_gradient(family: str) -> None:
    found = []
    for checkpointing in (False, True):
        guide = make_guide(HEADS)
        model = guided_model(family, guide).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        logits, terms = run_guided(model, guide, SOME_ROWS)
        (logits.square().mean() + terms.errors.mean()).backward()
        assert guide.collect(torch.device("cpu")).errors.shape == (0, 3)  # nothing of the second pass is kept
        found.append((terms.errors.detach(), gradients(model)))

    (plain_errors, plain), (checkpointed_errors, checkpointed) = found
    assert torch.equal(plain_errors, checkpointed_errors)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[name], rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_in_one_graph_the_guided_model_is_the_same() -> None:
    layers = tuple(GuidedLayer(layer=layer, probability=0.5, first_row=layer) for layer in (0, 2))
    guided = GuidedStep(layers=layers, row_stride=3)
    rows, results = rows_of(LENGTHS), []
    for compiled in (False, True):
        guide = make_guide({"next": 1, "delimiters": 1, "first": 1})
        model = guided_model("roberta", guide).train()
        forward = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model

        guide.watch(guided, guide.targets(rows.ids, documents_of(rows)), training=True)
        logits = forward(**tiny_inputs(LENGTHS)).logits
        terms = guide.collect(torch.device("cpu"))
        (logits.square().mean() + terms.errors.mean()).backward()

        results.append((logits, *vars(terms).values(), *gradients(model).values()))

    assert terms.errors.shape == (2, 3)
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_model_is_guided_by_the_step_it_is_in() -> None:
    """Targets, layers and rows change from step to step; a graph must not keep those of an earlier one."""
    guide, plain_guide = make_guide(HEADS), make_guide(HEADS)
    model, plain = guided_model("roberta", guide), guided_model("roberta", plain_guide)
    compiled = torch.compile(model, fullgraph=True, backend="eager")

    for pieces, guided in [
        ([[24], [9], [17], [2]], EVERY_LAYER),
        ([[20, 4], [4, 5], [17], [1, 1]], EVERY_LAYER),
        ([[20, 4], [4, 5], [17], [1, 1]], SOME_ROWS),
        ([[24], [9], [17], [2]], GuidedStep()),
    ]:
        rows = rows_of(LENGTHS, pieces)
        _, found = run_guided(compiled, guide, guided, rows)
        _, expected = run_guided(plain, plain_guide, guided, rows)
        for name, value in vars(expected).items():
            torch.testing.assert_close(getattr(found, name), value)


def test_time_spent_is_measured() -> None:
    guide = make_guide(HEADS)
    CLOCK.take()
    _, terms = run_guided(guided_model("roberta", guide), guide, EVERY_LAYER)
    forward_seconds = CLOCK.take()

    terms.errors.sum().backward()

    assert forward_seconds > 0.0
    assert CLOCK.take() > 0.0
