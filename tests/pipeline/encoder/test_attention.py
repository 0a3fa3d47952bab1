"""Taps: what they are shown, several on one layer, for a while, and the families that cannot have them."""

import gc
import weakref

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from pipeline.encoder.attention import (
    AttentionInputs,
    AttentionTap,
    add_taps,
    install_taps,
    is_routed,
    remove_taps,
    tapped,
    why_not_tapped,
)
from pipeline.encoder.compilation import CAN_RECOMPUTE, compile_blocks
from tests.pipeline.tiny_models import FAMILIES, tiny_inputs, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)
SMALL = {"vocab_size": 97, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
OTHERS = {
    "distilbert": {"vocab_size": 97, "n_layers": 3, "n_heads": 4, "dim": 32, "hidden_dim": 64},
    "mpnet": {**SMALL, "num_hidden_layers": 3},  # computes its attention itself
    "albert": {**SMALL, "num_hidden_layers": 3, "embedding_size": 16},  # three layers are one module
}


class Watching:
    """Keeps what it is shown; adds nothing."""

    adds_bias = False
    needs_hidden = False

    def __init__(self) -> None:
        self.seen: list[AttentionInputs] = []

    def observe(self, inputs: AttentionInputs) -> None:
        self.seen.append(inputs)

    def bias(self, _query: torch.Tensor) -> None:
        return None


class WatchingHidden(Watching):
    needs_hidden = True


class Biasing:
    """Adds the same matrix to all heads' scores."""

    adds_bias = True
    needs_hidden = False

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def observe(self, inputs: AttentionInputs) -> None:
        pass

    def bias(self, _query: torch.Tensor) -> torch.Tensor:
        return self.matrix


class Energy:
    """A term of a loss from all that a tap is shown: differentiable, and kept in the first pass only."""

    adds_bias = False
    needs_hidden = True

    def __init__(self) -> None:
        self.term: torch.Tensor | None = None
        self.collects = True

    def observe(self, inputs: AttentionInputs) -> None:
        assert inputs.hidden is not None
        parts = (inputs.hidden, inputs.query, inputs.key, inputs.value)
        term = torch.stack([part.square().mean() for part in parts]).sum()
        if self.collects:
            self.term = term

    def bias(self, _query: torch.Tensor) -> None:
        return None

    def take(self) -> torch.Tensor:
        term, self.term, self.collects = self.term, None, False
        assert term is not None
        return term


class EnergyWithoutHidden(Energy):
    needs_hidden = False

    def observe(self, inputs: AttentionInputs) -> None:
        term = inputs.query.square().mean() + inputs.value.square().mean()
        if self.collects:
            self.term = term


def other_model(family: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **OTHERS[family])
        return AutoModelForMaskedLM.from_config(config).eval()


def all_taps(model: PreTrainedModel) -> list[AttentionTap]:
    return [tap for module in model.modules() for tap in getattr(module, "attention_taps", ())]


def num_hooks(model: PreTrainedModel) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def inputs_of_attention(model: PreTrainedModel) -> list[torch.Tensor]:
    """What the attention modules of an untouched model get, by layer."""
    found: list[torch.Tensor] = []
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.register_forward_pre_hook(
                lambda _module, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            )
    model(**tiny_inputs())
    return found


# What taps are shown


@every_family
def test_all_taps_of_a_layer_are_shown_its_inputs(family: str) -> None:
    model = tiny_model(family)
    taps = [[Watching(), WatchingHidden()] for _ in range(3)]
    install_taps(model, taps)

    logits = model(**tiny_inputs()).logits

    untouched = tiny_model(family)
    assert torch.equal(logits, untouched(**tiny_inputs()).logits)
    for of_layer, hidden in zip(taps, inputs_of_attention(untouched), strict=True):
        first, second = [tap.seen[0] for tap in of_layer if len(tap.seen) == 1]
        assert first is second
        assert torch.equal(second.hidden, hidden)


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_query_key_and_value_are_the_layers(family: str) -> None:
    model = tiny_model(family)
    taps = [[WatchingHidden()] for _ in range(3)]
    install_taps(model, taps)

    model(**tiny_inputs())

    modules = [module for module in model.modules() if hasattr(module, "is_causal")]
    for module, (tap,) in zip(modules, taps, strict=True):
        seen = tap.seen[0]
        for name in ("query", "key", "value"):
            expected = getattr(module, name)(seen.hidden).unflatten(-1, (4, 8)).transpose(1, 2)
            torch.testing.assert_close(getattr(seen, name), expected)


def test_only_layers_that_need_their_input_have_a_hook() -> None:
    model = tiny_model("roberta")
    before = num_hooks(model)
    taps = [[Watching()], [Watching(), WatchingHidden()], []]
    install_taps(model, taps)
    assert num_hooks(model) == before + 1

    model(**tiny_inputs())

    assert taps[0][0].seen[0].hidden is None
    assert taps[1][0].seen[0].hidden is not None
    install_taps(model, [[Watching()]] * 3)
    assert num_hooks(model) == before


def test_nothing_keeps_the_hidden_states_alive() -> None:
    references = []

    class Glancing(WatchingHidden):
        def observe(self, inputs: AttentionInputs) -> None:
            references.append(weakref.ref(inputs.hidden))

    model = tiny_model("modernbert")
    install_taps(model, [[Glancing()]] * 3)

    with torch.no_grad():
        model(**tiny_inputs())

    gc.collect()
    assert [reference() for reference in references] == [None] * 3


@every_family
def test_biases_of_several_taps_add_up(family: str) -> None:
    first, second = torch.randn(2, 24, 24, generator=torch.Generator().manual_seed(2))
    results = []
    for matrices in ([first, second], [first + second], [first], []):
        model = tiny_model(family)
        install_taps(model, [[Watching(), *map(Biasing, matrices)]] * 3)
        results.append(model(**tiny_inputs()).logits)

    both, their_sum, one, none = results
    assert torch.equal(both, their_sum)
    assert not torch.allclose(both, one)
    assert not torch.allclose(one, none)


# For a while


def test_added_taps_stay_for_the_block_only() -> None:
    model = tiny_model("roberta")
    own, guests = [[Watching()] for _ in range(3)], [[WatchingHidden()] for _ in range(3)]
    install_taps(model, own)
    before = num_hooks(model)

    with tapped(model, guests):
        model(**tiny_inputs())
        assert all_taps(model) == [tap for pair in zip(own, guests) for (tap,) in pair]
    model(**tiny_inputs())

    assert all_taps(model) == [tap for (tap,) in own]
    assert [len(tap.seen) for (tap,) in own] == [2] * 3
    assert [len(tap.seen) for (tap,) in guests] == [1] * 3
    assert num_hooks(model) == before


def test_added_taps_go_when_the_block_fails() -> None:
    model = tiny_model("bert")
    install_taps(model, [])

    with pytest.raises(RuntimeError, match="halfway"), tapped(model, [[Watching()]] * 3):
        raise RuntimeError("halfway")

    assert all_taps(model) == []


def test_taps_are_removed_in_any_order() -> None:
    model = tiny_model("bert")
    install_taps(model, [])
    first, second = [[Watching()], [], []], [[Watching()], [Watching()], []]
    add_taps(model, first)
    add_taps(model, second)

    remove_taps(model, first)

    assert all_taps(model) == [second[0][0], second[1][0]]


def test_installed_taps_replace_all_others() -> None:
    model = tiny_model("bert")
    install_taps(model, [[WatchingHidden()]] * 3)
    taps = [[Watching()], [], [Watching()]]

    install_taps(model, taps)
    assert all_taps(model) == [taps[0][0], taps[2][0]]

    install_taps(model, [])
    assert all_taps(model) == []


# Families


def test_layers_without_numbers_are_told_apart_by_their_order() -> None:
    model = other_model("distilbert")
    taps = [[WatchingHidden()] for _ in range(3)]
    expected = inputs_of_attention(other_model("distilbert"))

    install_taps(model, taps)
    model(**tiny_inputs())

    for (tap,), hidden in zip(taps, expected, strict=True):
        torch.testing.assert_close(tap.seen[0].hidden, hidden)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mpnet", "MPNetForMaskedLM: its attention cannot be watched"),
        ("albert", "AlbertForMaskedLM: its attention layers cannot be told apart: expected 3, found 1"),
    ],
)
def test_family_that_cannot_be_tapped_is_refused(family: str, reason: str) -> None:
    model = other_model(family)

    for install in (install_taps, add_taps):
        with pytest.raises(ValueError, match=reason):
            install(model, [[], [], [Watching()]])

    assert all_taps(model) == []
    assert reason in str(why_not_tapped(model))


@pytest.mark.parametrize("family", ["mpnet", "albert"])
@pytest.mark.parametrize("taps", [[], [[], [], []]])
def test_without_taps_every_family_trains(
    family: str, taps: list[list[AttentionTap]], caplog: pytest.LogCaptureFixture
) -> None:
    model, untouched = other_model(family), other_model(family)

    install_taps(model, taps)

    assert is_routed(model) == (family == "albert")
    for each in (model, untouched):
        each(**tiny_inputs()).logits.square().mean().backward()
    for parameter, expected in zip(model.parameters(), untouched.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad)
    assert not caplog.records


def test_taps_for_another_number_of_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="taps for 2 layers, but RobertaForMaskedLM has 3"):
        install_taps(tiny_model("roberta"), [[Watching()], []])


# Training


def train(model: PreTrainedModel, taps: list[list[Energy]]) -> list[torch.Tensor]:
    """Terms and gradients of a step on logits and the taps' terms."""
    model.zero_grad()
    for of_layer in taps:
        for tap in of_layer:
            tap.collects = True
    logits = model.train()(**tiny_inputs()).logits
    terms = torch.stack([tap.take() for of_layer in taps for tap in of_layer])
    (logits.square().mean() + terms.sum()).backward()
    assert all(tap.term is None for of_layer in taps for tap in of_layer)
    return [terms.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@every_family
def test_activation_checkpointing_changes_no_gradient(family: str) -> None:
    found = []
    for checkpointing in (False, True):
        model = tiny_model(family)
        taps = [[Energy(), EnergyWithoutHidden()] for _ in range(3)]
        install_taps(model, taps)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        found.append(train(model, taps))

    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-7)


@every_family
@pytest.mark.parametrize(
    "checkpointing",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(not CAN_RECOMPUTE, reason="torch does not recompute")),
    ],
)
def test_compiled_layers_with_two_taps_share_a_graph_that_guests_do_not_spoil(
    family: str, checkpointing: bool
) -> None:
    torch.compiler.reset()
    counters.clear()
    counter, results = CompileCounterWithBackend("aot_eager"), []
    kinds_of_layers = 2 if family == "modernbert" else 1  # its first has no norm, the others are local
    for compiled in (False, True):
        model = tiny_model(family)
        own = [[EnergyWithoutHidden(), EnergyWithoutHidden()] for _ in range(3)]
        install_taps(model, own)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if compiled:
            compile_blocks(model, backend=counter)
        found = [*train(model, own), *train(model, own)]
        num_graphs = [counter.frame_count]
        for _ in range(2):
            guests = [[Energy()] for _ in range(3)]
            with tapped(model, guests):  # the input is shown to a layer compiled without
                found += train(model, [[*taps, *more] for taps, more in zip(own, guests)])
            found += train(model, own)
            num_graphs.append(counter.frame_count)
        results.append(found)

    for plain, of_compiled in zip(*results, strict=True):
        torch.testing.assert_close(of_compiled, plain, rtol=1e-4, atol=1e-5)
    assert num_graphs == [kinds_of_layers, 2 * kinds_of_layers, 2 * kinds_of_layers]
    assert not counters["graph_break"]
