"""Compiled blocks: the same numbers, a bounded number of graphs, and the uncompiled way out."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

import pipeline.encoder.attention
import pipeline.encoder.attention_scope
import pipeline.encoder.compilation
from pipeline.data.batches import Batch
from pipeline.encoder.attention import add_taps
from pipeline.encoder.compilation import (
    CAN_RECOMPUTE,
    compile_blocks,
    compile_blocks_if_possible,
    wants_compilation,
    why_not,
)
from pipeline.engine import PretrainingModule
from pipeline.evaluation.attention_snapshot import record_attention
from pipeline.guidance.schedule import GuidedLayer, GuidedStep
from pipeline.processes.cluster import Cluster
from tests.pipeline.encoder.test_attention import Energy
from tests.pipeline.encoder.test_attention_scope import FULL, PADDED, batch_of, reference_kernel
from tests.pipeline.evaluation.test_attention_snapshot import SENTENCE
from tests.pipeline.modules import guided_module, score, sums_by_head
from tests.pipeline.tiny_models import tiny_model

recomputing = pytest.mark.skipif(not CAN_RECOMPUTE, reason="this torch does not recompute compiled blocks")


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """No graphs of other tests, and no counts of them."""
    torch.compiler.reset()
    counters.clear()


def module_of(family: str, **settings: Any) -> PretrainingModule:
    return guided_module(tiny_model(family, **settings), [{"next": 1, "previous": 1}] * 3)


def module_with_taps_beside_guidance(family: str) -> PretrainingModule:
    module = module_of(family)
    add_taps(module.model, [[Energy()] for _ in range(3)])
    return module


def sampled(step: int) -> GuidedStep:
    """All layers at first, then one, of which one row in three counts; another one every step."""
    if step < 2:
        return GuidedStep.looking_at([0, 1, 2])
    layer = GuidedLayer(layer=step % 3, probability=1 / 3, first_row=(step // 3) % 3)
    return GuidedStep(layers=(layer,), row_stride=3)


def take_step(module: PretrainingModule, batch: Batch, guided: GuidedStep) -> list[torch.Tensor]:
    """Losses, errors and gradients."""
    module.train().zero_grad()
    scored = score(module, batch, guided)
    sum(term.sum for term in scored.terms.values()).backward()
    errors = [sums_by_head(scored)[0].float()] if guided.layers else []
    return [scored.rows[0], *errors, *(p.grad for p in module.parameters() if p.grad is not None)]


@torch.no_grad()
def evaluate(module: PretrainingModule, batch: Batch) -> torch.Tensor:
    module.eval()
    return score(module, batch, GuidedStep.looking_at([0, 1, 2]), step=None).rows[0]


@pytest.mark.parametrize(
    ("make_module", "family", "backend", "inside_documents", "checkpointing"),
    [
        (module_of, "roberta", "aot_eager", False, False),
        pytest.param(module_of, "roberta", "aot_eager", True, True, marks=recomputing),
        (module_of, "bert", "eager", True, False),
        (module_of, "modernbert", "eager", True, False),
        pytest.param(module_of, "modernbert", "eager", False, True, marks=recomputing),
        (module_with_taps_beside_guidance, "bert", "eager", True, False),
        pytest.param(
            module_with_taps_beside_guidance, "modernbert", "aot_eager", False, True, marks=recomputing
        ),
    ],
)
def test_compiled_blocks_are_the_same_and_their_graphs_are_soon_complete(
    make_module: Callable[[str], PretrainingModule],
    family: str,
    backend: str,
    inside_documents: bool,
    checkpointing: bool,
) -> None:
    """Sampled layers, first rows, batches, evaluations and snapshots change; nothing is compiled for it."""
    module = make_module(family)
    if checkpointing:
        module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    plain = copy.deepcopy(module)
    counter = CompileCounterWithBackend(backend)
    compile_blocks(module.model, backend=counter)
    batches = [batch_of(PADDED), batch_of(list(reversed(PADDED)))]
    if not inside_documents:
        for batch in batches:
            batch.borders = None
    graphs = []
    for step in range(11):
        batch, guided = batches[step % 2], sampled(step)

        for found, expected in zip(
            take_step(module, batch, guided), take_step(plain, batch, guided), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

        if step % 4 == 3:
            torch.testing.assert_close(evaluate(module, batch), evaluate(plain, batch))
            record_attention(module, module, SENTENCE)
        graphs.append(counter.frame_count)

    kinds_of_layers = 2 if family == "modernbert" else 1  # its first has no norm, the others are local
    # Looked at wholly, in part, or not at all; and looked at in evaluation.
    assert graphs[4] == graphs[-1] <= 4 * kinds_of_layers
    assert not counters["graph_break"]


@torch.library.custom_op("lodestar_tests::by_sequence", mutates_args=())
def operator_by_sequence(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor,
    longest: int, scale: float, reach: int,
) -> torch.Tensor:  # fmt: skip
    """The kernel for sequences as a graph sees it: one opaque operator."""
    return reference_kernel(
        query, key, value, borders, borders, longest, longest, scale=scale, window_size=(reach, reach)
    )


@torch.library.custom_op("lodestar_tests::by_sequence_backward", mutates_args=())
def backward_operator(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    borders: torch.Tensor, longest: int, scale: float, reach: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    # By the formula, for no autograd reaches into an operator.
    places = torch.arange(len(query))
    sequence = torch.searchsorted(borders[1:].contiguous(), places, right=True)
    allowed = sequence[:, None] == sequence
    if reach >= 0:
        allowed &= (places[:, None] - places).abs() <= reach
    gradient, query, key, value = (x.transpose(0, 1) for x in (gradient, query, key, value))
    scores = (query @ key.transpose(1, 2) * scale).masked_fill(~allowed, -torch.inf)
    probs = scores.softmax(-1)
    pull = gradient @ value.transpose(1, 2)
    pull = scale * probs * (pull - (pull * probs).sum(-1, keepdim=True))
    gradients = (pull @ key, pull.transpose(1, 2) @ query, probs.transpose(1, 2) @ gradient)
    of_query, of_key, of_value = (x.transpose(0, 1).contiguous() for x in gradients)
    return of_query, of_key, of_value


def differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    return *backward_operator(gradient, *ctx.saved_tensors, *ctx.settings), None, None, None, None


def keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.settings = inputs[4:]


operator_by_sequence.register_fake(lambda query, *_others: torch.empty_like(query))
operator_by_sequence.register_autograd(differentiate, setup_context=keep)
backward_operator.register_fake(lambda _gradient, *inputs: tuple(x.new_empty(x.shape) for x in inputs[:3]))


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_attention_by_sequence_is_compiled_like_the_rest(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA. Numbers of documents differ, and only their next power of two makes another graph."""

    def varlen_attn(
        query, key, value, borders, _borders_of_keys, longest, _longest_key, *, scale, window_size
    ):
        return operator_by_sequence(query, key, value, borders, longest, scale, window_size[0])

    monkeypatch.setattr(pipeline.encoder.attention, "varlen_attn", varlen_attn)
    monkeypatch.setattr(pipeline.encoder.attention_scope, "can_attend_by_sequence", lambda **_: True)
    module = module_of(family)
    plain = copy.deepcopy(module)
    counter = CompileCounterWithBackend("aot_eager")
    compile_blocks(module.model, backend=counter)
    batches = [batch_of(PADDED), batch_of(FULL), batch_of([[24], [24], [24], [24]])]
    assert [len(batch.borders) - 1 for batch in batches] == [16, 16, 4]
    graphs = []
    for step in range(9):
        batch = batches[2 if step in (4, 7) else step % 2]
        pair = [take_step(m, batch, GuidedStep.looking_at([0, 1, 2])) for m in (module, plain)]
        for found, expected in zip(*pair, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        graphs.append(counter.frame_count)

    kinds_of_layers = 2 if family == "modernbert" else 1
    assert graphs == [kinds_of_layers] * 4 + [2 * kinds_of_layers] * 5
    assert not counters["graph_break"]


def test_a_bias_that_decays_needs_one_graph() -> None:
    module, batch = module_of("bert"), batch_of(FULL)
    plain = copy.deepcopy(module)
    counter = CompileCounterWithBackend("eager")
    compile_blocks(module.model, backend=counter)

    for bias in (8.0, 7.5, 7.0, 0.25):
        found, expected = (take_step(m, batch, GuidedStep(bias=bias)) for m in (module, plain))
        for value, plain_value in zip(found, expected, strict=True):
            torch.testing.assert_close(value, plain_value, rtol=1e-4, atol=1e-5)

    assert counter.frame_count == 1


def test_weights_keep_their_names() -> None:
    """Of checkpoints and exports."""
    module = module_of("roberta")
    names = list(module.state_dict())

    compile_blocks(module.model, backend="eager")

    assert list(module.state_dict()) == names


@pytest.mark.parametrize(
    ("setting", "stage", "on_cuda", "expected"),
    [
        ("auto", 0, True, True),
        ("auto", 2, True, True),
        ("auto", 3, True, False),
        ("auto", 1, False, False),
        (True, 1, False, True),
        (False, 1, True, False),
    ],
)
def test_when_blocks_are_compiled(
    make_recipe: Callable[..., Any], setting: bool | str, stage: int, on_cuda: bool, expected: bool
) -> None:
    recipe = make_recipe({"train.compile": setting})

    assert wants_compilation(recipe, stage, on_cuda) is expected


def broken_compile(*_arguments: Any, **_settings: Any) -> None:
    raise RuntimeError("\nno compiler here\nand much more")


def test_a_machine_that_cannot_compile_says_why(
    monkeypatch: pytest.MonkeyPatch, alone: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", broken_compile)
    module = module_of("roberta")

    assert not compile_blocks_if_possible(module.model, alone)

    (record,) = caplog.records
    assert "does not work here" in record.message
    assert "process 0: RuntimeError: no compiler here;" in record.message.replace(")", "")
    monkeypatch.undo()
    evaluate(module, batch_of(FULL))
    assert not counters["frames"]


def test_a_torch_that_cannot_recompute_compiled_blocks_says_so(
    monkeypatch: pytest.MonkeyPatch, alone: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline.encoder.compilation, "CAN_RECOMPUTE", False)
    monkeypatch.setattr(torch, "compile", lambda block, **_: block)
    module = module_of("roberta")

    assert not compile_blocks_if_possible(module.model, alone, recomputes=True)

    (record,) = caplog.records
    assert "fails where activations are computed again, from 2.13 on it works" in record.message
    assert why_not(alone.device) is None  # without recomputation it would


def test_one_process_that_cannot_is_enough(monkeypatch: pytest.MonkeyPatch, alone: Cluster) -> None:
    monkeypatch.setattr(torch, "compile", lambda block, **_: block)
    monkeypatch.setattr(Cluster, "gather", lambda _self, reason: [reason, "OSError: nothing", reason])

    assert why_not(alone.device) is None
    assert not compile_blocks_if_possible(module_of("roberta").model, alone)


def test_trying_draws_no_random_numbers(monkeypatch: pytest.MonkeyPatch, alone: Cluster) -> None:
    monkeypatch.setattr(torch, "compile", lambda block, **_: block)
    before = torch.get_rng_state()

    assert why_not(alone.device) is None

    assert torch.equal(torch.get_rng_state(), before)
