from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.dry_step import DryStep
from pipeline.planning.memory import MemoryPlan, estimate_memory, optimizer_bytes
from pipeline.planning.sizes import Sizes

MANY_LAYERS = tuple((1_000_000,) * 12 for _ in range(100))
SIZES = Sizes(
    groups=(tuple(n for layer in MANY_LAYERS for n in layer), (1000, 1000)),
    micro_steps=1,
    value_bytes=4,
    stage=1,
    num_processes=4,
    on_cuda=False,
    bucket=200_000_000,
    num_buckets=2,
    prefetched=50_000_000,
    offloads=False,
    update_values=0,
    copies_checkpoint=False,
    corpus_bytes=0,
    trained_rows=0,
)
SMALL = DryStep(kept=1 << 20, forward_peak=2 << 20, backward_peak=2 << 20)
LARGE = DryStep(kept=40 << 30, forward_peak=42 << 30, backward_peak=41 << 30)


def estimate(sizes: Sizes, step: DryStep = SMALL, guided: DryStep | None = None) -> MemoryPlan:
    return estimate_memory(sizes, step, guided or step, 0)


@pytest.mark.parametrize("stages", [(0, 1, 2, 3), (1, 2, 3)])
def test_each_zero_stage_takes_less_of_a_large_model(stages: tuple[int, ...]) -> None:
    value_bytes = (
        4 if 0 in stages else 2
    )  # stage 0 trains in fp32 alone; stage 2 needs accumulation to differ
    sizes = replace(SIZES, on_cuda=True, value_bytes=value_bytes, micro_steps=2)
    totals = [estimate(replace(sizes, stage=stage)).on_device() for stage in stages]

    assert all(after < before for before, after in pairwise(totals))


@given(num_processes=st.integers(1, 64), stage=st.integers(0, 3))
def test_no_more_than_all_optimizer_states_and_padding(num_processes: int, stage: int) -> None:
    sizes = replace(SIZES, num_processes=num_processes, stage=stage)
    everything = optimizer_bytes(replace(sizes, num_processes=1))

    assert everything <= optimizer_bytes(sizes) * sizes.num_shares < everything + 12 * 2 * num_processes


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_accumulated_gradients_are_kept(stage: int) -> None:
    once, twice = (estimate(replace(SIZES, stage=stage, micro_steps=steps), LARGE) for steps in (1, 2))

    assert twice.peak_at == once.peak_at == "forward"
    expected = 4 * (SIZES.parameters if stage < 2 else SIZES.parameters // 4)
    assert twice.gradients - once.gradients == pytest.approx(expected, rel=0.01)


def test_parts_of_a_pass_add_up_to_its_peak() -> None:
    guided = DryStep(kept=41 << 30, forward_peak=43 << 30, backward_peak=45 << 30)
    alone, found = estimate(SIZES, LARGE), estimate(SIZES, LARGE, guided)

    assert (alone.peak_at, alone.activations, alone.passing, alone.guidance) == (
        "forward",
        40 << 30,
        2 << 30,
        0,
    )
    assert found.peak_at == "backward"
    assert found.activations + found.passing + found.guidance == 45 << 30


def test_on_cuda_buckets_are_taken_while_all_is_kept() -> None:
    step = DryStep(kept=40 << 30, forward_peak=40 << 30, backward_peak=40 << 30)
    found = estimate(replace(SIZES, on_cuda=True), step)

    assert found.peak_at == "backward"
    assert found.gradients == 4 * 2 * SIZES.bucket
    assert estimate(SIZES, step).gradients == 0
