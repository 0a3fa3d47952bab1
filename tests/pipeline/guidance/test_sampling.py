"""Which layers and rows a sampled step draws: functions of seed and step, with the promised chances."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.guidance.schedule import (
    GuidanceSchedule,
    inclusion_probabilities,
    sample_indices,
)
from tests.pipeline.guidance.cases import layers_of, schedule_of

LAYERS = (0, 1, 2, 5, 7, 11)
STEPS = 2_500


def make_schedule(**changes: object) -> GuidanceSchedule:
    """Sampled from the first step."""
    always = {"plateau_steps": 10**6, "end_step": 10**6, "dense_steps": 0}
    return schedule_of(**({"layers": LAYERS, "layers_per_step": 2} | always | changes))


weights_and_count = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=24).flatmap(
    lambda weights: st.tuples(st.just(np.array(weights)), st.integers(1, len(weights)))
)


@given(weights_and_count)
def test_probabilities_sum_to_the_number_drawn_and_none_is_above_one(case: tuple[np.ndarray, int]) -> None:
    weights, count = case

    probabilities = inclusion_probabilities(weights, count)

    assert probabilities.sum() == pytest.approx(count)
    assert (probabilities > 0.0).all()
    assert (probabilities <= 1.0).all()


@given(weights_and_count)
def test_probabilities_go_with_the_weights_but_for_the_certain(case: tuple[np.ndarray, int]) -> None:
    weights, count = case

    probabilities = inclusion_probabilities(weights, count)

    certain = probabilities == 1.0
    ratios = probabilities[~certain] / weights[~certain]
    assert np.allclose(ratios, ratios[:1], rtol=1e-9)
    if certain.any() and not certain.all():
        assert weights[certain].min() >= weights[~certain].max()
        assert (weights[certain] * ratios[0] >= 1.0 - 1e-9).all()  # in proportion, they would have more


@pytest.mark.parametrize(
    ("weights", "count", "expected"),
    [
        ([1, 1, 1, 1], 1, [0.25] * 4),
        ([3, 1], 1, [0.75, 0.25]),
        ([100, 1, 1, 2], 2, [1.0, 0.25, 0.25, 0.5]),
        ([100, 5, 1, 1], 3, [1.0, 1.0, 0.5, 0.5]),  # the second is certain only beside the first
        ([1, 2, 3], 3, [1.0, 1.0, 1.0]),
    ],
)
def test_probabilities_of_simple_weights(weights: list[int], count: int, expected: list[float]) -> None:
    assert inclusion_probabilities(np.array(weights, dtype=float), count) == pytest.approx(expected)


@given(weights_and_count, st.integers(0, 2**40), st.integers(0, 10**7))
def test_drawn_indices_are_distinct_ascending_and_as_many_as_asked(
    case: tuple[np.ndarray, int], seed: int, step: int
) -> None:
    weights, count = case
    probabilities = inclusion_probabilities(weights, count)

    drawn = sample_indices(probabilities, seed, step)

    assert len(drawn) == count
    assert drawn == sorted(set(drawn))  # errors come back in this order
    assert set(drawn) <= set(range(len(weights)))
    assert set(np.flatnonzero(probabilities == 1.0)) <= set(drawn)
    assert drawn == sample_indices(probabilities, seed, step)


@pytest.mark.parametrize(
    "weights",
    [None, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), (1.0, 1.0, 50.0, 1.0, 2.0, 1.0), (0.1, 9.0, 9.0, 0.1, 0.1, 0.1)],
    ids=["equal", "uneven", "one certain", "two nearly all"],
)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_layers_are_drawn_as_often_as_they_say(weights: tuple[float, ...] | None, count: int) -> None:
    """Within four standard errors of the frequency over the steps."""
    schedule = make_schedule(layer_weights=weights, layers_per_step=count)
    steps = [schedule.at(step) for step in range(STEPS)]
    drawn = Counter(layer for guided in steps for layer in layers_of(guided))
    told = {layer.layer: layer.probability for guided in steps for layer in guided.layers}

    assert all(len(guided.layers) == count for guided in steps)
    assert sum(told.values()) == pytest.approx(count)
    for layer, probability in zip(LAYERS, schedule.layer_probabilities()):
        assert told[layer] == probability
        standard_error = np.sqrt(probability * (1 - probability) / STEPS)
        assert abs(drawn[layer] / STEPS - probability) <= 4 * standard_error


def test_weights_uneven_enough_make_a_layer_certain() -> None:
    schedule = make_schedule(layer_weights=(1.0, 1.0, 50.0, 1.0, 2.0, 1.0))

    assert all(2 in layers_of(schedule.at(step)) for step in range(200))
    assert [layer.probability for layer in schedule.at(0).layers if layer.layer == 2] == [1.0]


def test_every_pair_of_layers_is_drawn_equally_often() -> None:
    schedule = make_schedule(layers=LAYERS[:5])

    counts = Counter(layers_of(schedule.at(step)) for step in range(5_000))

    assert len(counts) == 10
    assert max(abs(count - 500) for count in counts.values()) < 5 * np.sqrt(500)


def test_draws_are_a_function_of_seed_and_step() -> None:
    steps = range(1000, 1100)

    found = [make_schedule(row_stride=7).at(step) for step in steps]

    assert found == [make_schedule(row_stride=7).at(step) for step in reversed(steps)][::-1]


def test_draws_change_with_step_and_seed() -> None:
    by_step = [layers_of(make_schedule(layers_per_step=3).at(step)) for step in range(100)]
    by_seed = [layers_of(make_schedule(layers_per_step=3, seed=seed).at(0)) for seed in range(100)]

    assert len(set(by_step)) >= 18  # of 20
    assert len(set(by_seed)) >= 18


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_first_row_is_any_below_the_stride_equally_often(stride: int) -> None:
    """Within five standard errors; and the layers of a step do not all begin alike."""
    schedule = make_schedule(row_stride=stride)
    steps = [schedule.at(step) for step in range(STEPS)]

    counts = Counter(layer.first_row for guided in steps for layer in guided.layers)

    assert set(counts) == set(range(stride))
    expected = 2 * STEPS / stride
    assert max(abs(count - expected) for count in counts.values()) <= 5 * np.sqrt(expected)
    assert {guided.row_stride for guided in steps} == {stride}
    alike = sum(len({layer.first_row for layer in guided.layers}) == 1 for guided in steps)
    assert alike / STEPS == pytest.approx(1 / stride, abs=0.03)


def test_rows_are_drawn_independently_of_layers() -> None:
    schedule = make_schedule(row_stride=2)
    steps = [schedule.at(step) for step in range(STEPS)]

    for chosen in LAYERS:
        first_rows = [layer.first_row for guided in steps for layer in guided.layers if layer.layer == chosen]
        assert np.mean(first_rows) == pytest.approx(0.5, abs=0.05)
