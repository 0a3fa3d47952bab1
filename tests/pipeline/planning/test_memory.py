from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

from pipeline.encoder.families import attention_reach
from pipeline.encoder.linear_cross_entropy import linear_cross_entropy
from pipeline.engine import parameter_groups
from pipeline.objectives import OBJECTIVES
from pipeline.planning.activations import (
    activation_bytes,
    guidance_bytes,
    head_kept_bytes,
    head_passing_bytes,
    kept_bytes_of_layer,
)
from pipeline.planning.memory import estimate_memory, optimizer_bytes
from pipeline.planning.sizes import Sizes
from tests.pipeline.tiny_models import FAMILIES, VOCABULARY, tiny_model

ROWS, LENGTH, PREDICTIONS = 4, 24, 4
SHAPE = {"hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "num_layers": 6}
MANY_LAYERS = tuple((1_000_000,) * 12 for _ in range(100))
SIZES = Sizes(
    family="roberta",
    num_layers=6,
    hidden=32,
    inner=64,
    num_heads=4,
    vocabulary=128,
    groups=(tuple(n for layer in MANY_LAYERS for n in layer), (1000, 1000)),
    local_layers=0,
    rows=ROWS,
    length=LENGTH,
    predictions=PREDICTIONS,
    has_mask=False,
    micro_steps=1,
    value_bytes=4,
    dropout=False,
    attention_dropout=False,
    recomputes=False,
    stage=1,
    num_processes=4,
    on_cuda=False,
    bucket=200_000_000,
    num_buckets=2,
    prefetched=50_000_000,
    offloads=False,
    update_values=0,
    guided_layers=0,
    guided_heads=0,
    most_guided_heads=0,
    adds_bias=False,
    copies_checkpoint=False,
    corpus_bytes=0,
    trained_rows=0,
)


def saved_bytes(
    family: str, dtype: torch.dtype, dropout: float, attention_dropout: float, **settings: Any
) -> tuple[Sizes, int]:
    """Sizes of a real model, and the bytes that its forward pass keeps beside its parameters."""
    settings = SHAPE | settings
    recomputes = settings.pop("recomputes", False)
    model = tiny_model(family, dropout=dropout, attention_dropout=attention_dropout, **settings).to(dtype)
    if recomputes:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    objective = OBJECTIVES["mlm"](model).train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage  # which also keeps its address from being used again
        return tensor

    ids = torch.randint(5, VOCABULARY.size, (ROWS, LENGTH))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(ids, None, torch.arange(PREDICTIONS).repeat(ROWS, 1), ids[:, :PREDICTIONS])
    config = model.config
    sizes = replace(
        SIZES,
        family=family,
        num_layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        groups=tuple(tuple(p.numel() for p in group["params"]) for group in parameter_groups(model, 0.0)),
        local_layers=sum(attention_reach(config, i) is not None for i in range(config.num_hidden_layers)),
        value_bytes=dtype.itemsize,
        dropout=dropout > 0.0,
        attention_dropout=attention_dropout > 0.0,
        recomputes=recomputes,
    )
    return sizes, sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dropout", "attention_dropout"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.1)])
def test_what_a_real_model_keeps(
    family: str, dtype: torch.dtype, dropout: float, attention_dropout: float
) -> None:
    """Statistics of the norms, positions and indices are left out: at these tiny sizes a few per cent."""
    sizes, counted = saved_bytes(family, dtype, dropout, attention_dropout)

    assert activation_bytes(sizes) + head_kept_bytes(sizes) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_what_another_layer_keeps(family: str, attention_dropout: float) -> None:
    """The difference of two depths leaves no room for anything that a layer does not keep."""
    few, few_counted = saved_bytes(family, torch.float32, 0.1, attention_dropout, num_layers=3)
    many, many_counted = saved_bytes(family, torch.float32, 0.1, attention_dropout, num_layers=6)

    left_out = (many_counted - few_counted) - (activation_bytes(many) - activation_bytes(few))
    assert 0 < left_out <= 3 * 4 * ROWS * LENGTH * 4  # means and deviations of the two norms
    assert left_out < 0.05 * 3 * kept_bytes_of_layer(many)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recomputed_layer_keeps_its_input(family: str) -> None:
    counts = [
        saved_bytes(family, torch.float32, 0.1, 0.1, recomputes=True, num_layers=count) for count in (3, 6)
    ]
    (few, few_counted), (many, many_counted) = counts

    assert many_counted - few_counted == activation_bytes(many) - activation_bytes(few)


def test_the_output_layer_keeps_the_gradient_of_its_weight() -> None:
    weight = torch.randn(4096, 64, requires_grad=True)
    hidden = torch.randn(8, 64, requires_grad=True)
    kept: list[torch.Tensor] = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        linear_cross_entropy(hidden, weight, None, torch.zeros(8).long())
    sizes = replace(SIZES, vocabulary=4096, hidden=64, rows=1, predictions=8)

    in_layer = sum(tensor.nbytes for tensor in kept)
    assert in_layer < head_kept_bytes(sizes) < 1.05 * in_layer
    assert (
        head_passing_bytes(sizes) == 8 * 4096 * 8
    )  # all logits in one chunk: themselves and their logarithms


def test_a_second_chunk_of_logits_meets_the_first() -> None:
    many = replace(SIZES, vocabulary=1 << 15, rows=1, predictions=1000)
    assert head_passing_bytes(many) == 12 * (1 << 22)


@pytest.mark.parametrize("stages", [(0, 1, 2, 3), (1, 2, 3)])
def test_each_zero_stage_takes_less_of_a_large_model(stages: tuple[int, ...]) -> None:
    value_bytes = (
        4 if 0 in stages else 2
    )  # stage 0 trains in fp32 alone; stage 2 needs accumulation to differ
    sizes = replace(SIZES, on_cuda=True, value_bytes=value_bytes, micro_steps=2)
    totals = [estimate_memory(replace(sizes, stage=stage), 0).on_device() for stage in stages]

    assert all(after < before for before, after in pairwise(totals))


@given(num_processes=st.integers(1, 64), stage=st.integers(0, 3))
def test_no_more_than_all_optimizer_states_and_padding(num_processes: int, stage: int) -> None:
    sizes = replace(SIZES, num_processes=num_processes, stage=stage)
    everything = optimizer_bytes(replace(sizes, num_processes=1))

    assert everything <= optimizer_bytes(sizes) * sizes.num_shares < everything + 12 * 2 * num_processes


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_accumulated_gradients_are_kept(stage: int) -> None:
    once, twice = (
        estimate_memory(replace(SIZES, stage=stage, micro_steps=steps, rows=512, length=2048), 0)
        for steps in (1, 2)
    )

    assert twice.peak_at == once.peak_at == "forward"
    expected = 4 * (SIZES.parameters if stage < 2 else SIZES.parameters // 4)
    assert twice.gradients - once.gradients == pytest.approx(expected, rel=0.01)


def test_guidance_keeps_query_and_key_where_the_attention_does_not() -> None:
    guided = replace(SIZES, guided_layers=6, guided_heads=12, most_guided_heads=2)
    spelled_out = replace(guided, attention_dropout=True)

    extra = guidance_bytes(spelled_out) - guidance_bytes(guided)
    assert extra == 6 * ROWS * LENGTH * 2 * 32 * 4
    assert guidance_bytes(replace(guided, guided_heads=0)) == 0
