"""Steps without memory keep and need what real ones do."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import profile

from pipeline.build import Corpus, build_pretraining_module
from pipeline.config.schema import Recipe
from pipeline.engine import PretrainingModule, total_loss
from pipeline.objectives.protocol import Facts
from pipeline.planning.dry_step import DryStep, dry_step, without_memory
from pipeline.planning.fake_training import FakeTraining
from pipeline.planning.live_bytes import LiveBytes

MakeRecipe = Callable[..., Recipe]
ROWS = 32
PLAIN = {
    "model.hidden_size": 64,
    "model.intermediate_size": 128,
    "model.dropout": 0.0,
    "model.attention_dropout": 0.0,
    "guidance.heads": {},
    "train.precision": "fp32",
}
DROPOUT = {"model.dropout": 0.1, "model.attention_dropout": 0.1}
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": DROPOUT,
    "bf16": {"train.precision": "bf16"},
    "recomputed": {"train.activation_checkpointing": True, **DROPOUT},
    "documents": {"data.attend_across_documents": False},
    "guided": {"guidance.heads": {"next": 1, "first": 2}},
    "guided, dropout": {"guidance.heads": {"next": 1, "first": 2}, **DROPOUT},
    "bias": {"guidance.heads": {"next": 1}, "guidance.method": "bias"},
}


def fake_training(recipe: Recipe, *, on_cuda: bool = False) -> tuple[FakeTraining, Corpus]:
    corpus = Corpus.open(recipe.corpus)
    length = corpus.manifest.sequence_length
    facts = Facts(vocabulary=corpus.vocabulary, positions=length)
    return FakeTraining(recipe, facts, [(recipe.train.num_steps, length)], on_cuda=on_cuda), corpus


def dry(recipe: Recipe, *, on_cuda: bool = False, rows: int = ROWS) -> DryStep:
    training, corpus = fake_training(recipe, on_cuda=on_cuda)
    return training.steps(rows, corpus.manifest)[1]


def real_forward(recipe: Recipe) -> tuple[PretrainingModule, Callable[[], torch.Tensor]]:
    """The recipe's module, and its loss for rows of its corpus, of which the first is padded."""
    corpus = Corpus.open(recipe.corpus)
    module = build_pretraining_module(recipe, corpus).train()
    if recipe.train.precision == "bf16":
        module = module.bfloat16()
    if recipe.train.activation_checkpointing:
        module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    batch = corpus.batcher(recipe, "train").batch(np.arange(ROWS), 0)
    lengths = batch.lengths.clone()
    lengths[0] -= 1
    batch = replace(batch, lengths=lengths, full=False)
    module.prepare(batch, 0)

    def run() -> torch.Tensor:
        return total_loss(module(batch, 0, batch.counts), batch.counts)

    return module, run


def saved_bytes(module: PretrainingModule, run: Callable[[], torch.Tensor]) -> int:
    """Bytes of what autograd saves, each storage once, beside the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage  # which also keeps its address from being used again
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_real_step_keeps(make_recipe: MakeRecipe, family: str, change: str) -> None:
    recipe = make_recipe({**PLAIN, "model.family": family, **CHANGES[change]})

    # Layers that are recomputed hold masks and position encodings besides, which autograd does not save.
    assert dry(recipe).kept == pytest.approx(saved_bytes(*real_forward(recipe)), rel=0.04)


@pytest.mark.parametrize("change", ["bf16", "recomputed", "guided"])
def test_what_a_real_step_needs_at_its_peaks(make_recipe: MakeRecipe, change: str) -> None:
    """Counted by torch's profiler, which hears of every allocation, those inside of kernels too."""
    recipe = make_recipe({**PLAIN, **CHANGES[change]})
    module, run = real_forward(recipe)
    for parameter in module.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    run().backward()
    gc.collect()
    with profile(profile_memory=True) as profiler:
        loss = run()
        with torch.profiler.record_function("between"):
            pass
        loss.backward()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    (between,) = [event.start_ns() for event in events if event.name() == "between"]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    now, peaks = 0, [0, 0]
    for time, num_bytes in changes:
        now += num_bytes
        peaks[time >= between] = max(peaks[time >= between], now)

    found = dry(recipe)

    assert found.forward_peak == pytest.approx(peaks[0], rel=0.05)
    assert found.backward_peak == pytest.approx(peaks[1], rel=0.1)


def test_all_grows_with_the_rows_and_layers(make_recipe: MakeRecipe) -> None:
    few, more, most = (dry(make_recipe({**PLAIN, "model.num_layers": count})).kept for count in (2, 3, 4))
    assert more - few == most - more > 0

    recipe = make_recipe({**PLAIN, "data.attend_across_documents": False})
    few, more, most = (dry(recipe, rows=rows).kept for rows in (32, 64, 96))
    assert more - few == pytest.approx(most - more, rel=0.001)


def test_on_cuda_attention_is_fused_and_masks_are_bytes(make_recipe: MakeRecipe) -> None:
    """Two layers: probabilities and their masks are not there; two masks of dropout take a quarter."""
    full = {**PLAIN, "model.num_layers": 2, "data.attend_across_documents": False}
    plain, dropped = (dry(make_recipe({**full, **change}), on_cuda=True).kept for change in ({}, DROPOUT))

    tokens = ROWS * 32
    assert dropped - plain == (2 * 2 + 1) * tokens * 64


def test_on_cuda_documents_need_no_mask(make_recipe: MakeRecipe) -> None:
    half = {
        **PLAIN,
        "model.hidden_size": 64,
        "train.precision": "bf16",
        "data.attend_across_documents": False,
    }
    by_sequence = dry(make_recipe(half), on_cuda=True)
    by_mask = dry(make_recipe({**half, "model.attention_dropout": 0.1}), on_cuda=True)

    assert by_mask.kept - by_sequence.kept > 2 * ROWS * 32 * 32 * 2 * 0.5


def test_gradients_are_handed_over() -> None:
    """What is left at the end is nothing; the peak of the backward pass has one gradient of a weight."""
    mode = FakeTensorMode()
    with without_memory(mode, on_cuda=False):
        module = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000, bias=False) for _ in range(5)))
        inputs = torch.empty(1, 1000)
        found = dry_step(module, lambda: module(inputs).sum())

    assert found.kept <= 4 * 4000 + 4000 + 4
    assert 4_000_000 < found.backward_peak < 4_000_000 + 10 * 4000
    assert all(parameter.grad is None for parameter in module.parameters())


def test_views_and_what_was_there_count_nothing() -> None:
    before = torch.zeros(1000)
    with LiveBytes() as live:
        part, made = before[10:], torch.zeros(500)
        assert live.now == 2000
        again = made.view(5, 100)
        del made
        assert live.now == 2000
        del again
        assert live.now == 0
        assert live.begin_peak() == 2000
        assert live.peak == 0
    assert len(part) == 990


def test_a_large_model_takes_seconds() -> None:
    """24 layers of 1024, as roberta_large; it is nothing of its size that takes time."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model("roberta", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
    with without_memory(FakeTensorMode(allow_non_fake_inputs=True), on_cuda=True):
        model = AutoModel.from_config(config, dtype=torch.bfloat16).train()
        ids = torch.zeros(64, 512, dtype=torch.int64)
        found = dry_step(model, lambda: model(ids).last_hidden_state.sum())

    assert found.kept > 20 << 30
