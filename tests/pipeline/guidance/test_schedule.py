from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.guidance.schedule import GuidanceSchedule, sample_layers, scaled_weight


def make_schedule(**changes: object) -> GuidanceSchedule:
    defaults = {
        "weight": 2.0,
        "plateau_steps": 40,
        "end_step": 100,
        "layers": (0, 1, 2, 3, 4, 5),
        "dense_steps": 20,
        "layers_per_step": 2,
        "seed": 1,
    }
    return GuidanceSchedule(**(defaults | changes))


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 2.0), (39, 2.0), (40, 2.0), (70, 1.0), (99, 2.0 / 60), (100, 0.0), (500, 0.0)]
)
def test_weight_is_constant_then_falls_to_zero(step: int, weight: float) -> None:
    assert make_schedule().weight_at(step) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("step", "share"), [(0, 1.0), (19_999, 1.0), (20_000, 1.0), (60_000, 0.5), (100_000, 0.0)]
)
def test_published_schedule_can_be_had(step: int, share: float) -> None:
    """s(t) of the released code: 1 before 20 000 steps, then (T - t) / (T - 20 000)."""
    schedule = make_schedule(weight=100.0, plateau_steps=20_000, end_step=100_000)

    assert schedule.weight_at(step) == pytest.approx(100.0 * share)


def test_plateau_over_the_whole_run_never_falls() -> None:
    schedule = make_schedule(plateau_steps=100, end_step=100)

    assert {schedule.weight_at(step) for step in range(100)} == {2.0}
    assert schedule.weight_at(100) == 0.0


def test_no_plateau_falls_from_the_first_step() -> None:
    schedule = make_schedule(plateau_steps=0, end_step=4)

    assert [schedule.weight_at(step) for step in range(5)] == [2.0, 1.5, 1.0, 0.5, 0.0]


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 400))
def test_weight_never_rises_nor_turns_negative(plateau: int, fall: int, step: int) -> None:
    schedule = make_schedule(plateau_steps=plateau, end_step=plateau + fall)

    assert 2.0 >= schedule.weight_at(step) >= schedule.weight_at(step + 1) >= 0.0


def test_all_layers_while_dense_then_a_few() -> None:
    schedule = make_schedule()

    assert all(schedule.layers_at(step) == schedule.layers for step in range(20))
    assert all(len(schedule.layers_at(step)) == 2 for step in range(20, 100))


def test_all_layers_always_without_a_number_per_step() -> None:
    schedule = make_schedule(layers_per_step=None)

    assert all(schedule.layers_at(step) == schedule.layers for step in range(100))


def test_no_layers_where_the_weight_is_zero() -> None:
    assert make_schedule().layers_at(100) == ()
    assert make_schedule(weight=0.0).layers_at(0) == ()


@given(
    st.lists(st.integers(0, 47), min_size=1, max_size=24, unique=True).map(sorted),
    st.data(),
    st.integers(0, 2**40),
    st.integers(0, 10**7),
)
def test_drawn_layers_are_distinct_and_among_the_guided(
    layers: list[int], data: st.DataObject, seed: int, step: int
) -> None:
    count = data.draw(st.integers(1, len(layers)))

    drawn = sample_layers(layers, count, seed, step)

    assert len(set(drawn)) == count
    assert set(drawn) <= set(layers)
    assert list(drawn) == sorted(drawn)  # errors come back in this order
    assert drawn == sample_layers(layers, count, seed, step)


def test_draws_change_with_step_and_seed() -> None:
    layers = range(12)

    by_step = [sample_layers(layers, 3, 0, step) for step in range(100)]
    by_seed = [sample_layers(layers, 3, seed, 0) for seed in range(100)]

    assert len(set(by_step)) > 60
    assert len(set(by_seed)) > 60


def test_the_mean_over_drawn_layers_is_unbiased() -> None:
    layers, count, num_steps = (0, 1, 2, 5, 7, 11), 2, 8_000
    value = dict(zip(layers, [0.9, 0.1, 0.5, 0.3, 0.99, 0.02]))

    estimates = [
        np.mean([value[layer] for layer in sample_layers(layers, count, 4, step)])
        for step in range(num_steps)
    ]

    full = np.mean(list(value.values()))
    assert abs(np.mean(estimates) - full) < 4 * np.std(estimates) / np.sqrt(num_steps)


def test_every_pair_of_layers_is_drawn_equally_often() -> None:
    counts = Counter(sample_layers(range(5), 2, 0, step) for step in range(5_000))

    assert len(counts) == 10
    assert max(abs(count - 500) for count in counts.values()) < 5 * np.sqrt(500)


def test_weight_is_for_512_tokens() -> None:
    assert scaled_weight(7.0, 512) == 7.0
    assert scaled_weight(7.0, 64) == 0.875
