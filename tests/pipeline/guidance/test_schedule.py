"""When and how strongly guidance acts; which layers a step draws is in test_sampling.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.guidance.schedule import (
    GuidanceSchedule,
    GuidedLayer,
    GuidedStep,
    alpha_of_weight,
    scaled_weight,
    weight_of_alpha,
)
from tests.pipeline.guidance.cases import layers_of, schedule_of

ALL_LAYERS = (0, 1, 2, 3, 4, 5)


def make_schedule(**changes: object) -> GuidanceSchedule:
    return schedule_of(**({"layers": ALL_LAYERS, "dense_steps": 20, "layers_per_step": 2} | changes))


# Strength


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 1.0), (39, 1.0), (40, 1.0), (70, 0.5), (99, 1.0 / 60), (100, 0.0), (500, 0.0)],
)
def test_strength_is_whole_then_falls_to_zero(step: int, share: float) -> None:
    assert make_schedule().strength_at(step) == pytest.approx(share)
    assert make_schedule().at(step).weight == pytest.approx(2.0 * share)
    assert make_schedule(weight=0.0, bias=8.0).at(step).bias == pytest.approx(8.0 * share)


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 1.0), (19_999, 1.0), (20_000, 1.0), (20_001, 79_999 / 80_000), (60_000, 0.5), (100_000, 0.0)],
)
def test_published_schedule_can_be_had(step: int, share: float) -> None:
    """s(t) of the released code: 1 before 20 000 steps, then (T - t) / (T - 20 000)."""
    schedule = make_schedule(weight=100.0, plateau_steps=20_000, end_step=100_000)

    assert schedule.at(step).weight == pytest.approx(100.0 * share, abs=1e-12)


def test_plateau_over_the_whole_run_never_falls() -> None:
    schedule = make_schedule(plateau_steps=100, end_step=100)

    assert {schedule.at(step).weight for step in range(100)} == {2.0}
    assert schedule.at(100).weight == 0.0


def test_published_schedule_of_a_short_run_never_falls() -> None:
    schedule = make_schedule(plateau_steps=20_000, end_step=5_000)

    assert schedule.at(4_999).weight == 2.0


def test_no_plateau_falls_from_the_first_step() -> None:
    schedule = make_schedule(plateau_steps=0, end_step=4)

    assert [schedule.at(step).weight for step in range(5)] == [2.0, 1.5, 1.0, 0.5, 0.0]


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 400))
def test_strength_never_rises_nor_leaves_zero_to_one(plateau: int, fall: int, step: int) -> None:
    schedule = make_schedule(plateau_steps=plateau, end_step=plateau + fall)

    assert 1.0 >= schedule.strength_at(step) >= schedule.strength_at(step + 1) >= 0.0


# Phases


def test_everything_while_dense_then_a_few() -> None:
    schedule = make_schedule(row_stride=3)

    for step in range(20):
        assert schedule.at(step).layers == GuidedStep.looking_at(ALL_LAYERS).layers
        assert schedule.at(step).row_stride == 1
    for step in range(20, 100):
        assert len(schedule.at(step).layers) == 2
        assert schedule.at(step).row_stride == 3


@pytest.mark.parametrize("dense_steps", [0, 20, 100])
@pytest.mark.parametrize("formed_step", [None, 10])
def test_a_fixed_number_of_dense_steps_is_kept(dense_steps: int, formed_step: int | None) -> None:
    schedule = make_schedule(dense_steps=dense_steps)

    dense = [schedule.is_dense(step, formed_step) for step in range(100)]

    assert dense == [step < dense_steps for step in range(100)]


@pytest.mark.parametrize(
    ("formed_step", "end"), [(None, 40), (0, 0), (10, 10), (39, 39), (40, 40), (41, 40), (90, 40)]
)
def test_dense_until_formed_or_the_end_of_the_plateau(formed_step: int | None, end: int) -> None:
    schedule = make_schedule(dense_steps=None)

    dense = [schedule.is_dense(step, formed_step) for step in range(100)]

    assert dense == [step < end for step in range(100)]
    assert [len(schedule.at(step, formed_step).layers) for step in range(100)] == [6] * end + [2] * (
        100 - end
    )


def test_all_layers_always_without_a_number_per_step() -> None:
    schedule = make_schedule(layers_per_step=None, row_stride=2)

    assert all(layers_of(schedule.at(step)) == ALL_LAYERS for step in range(100))
    assert {layer.probability for step in range(100) for layer in schedule.at(step).layers} == {1.0}
    assert [schedule.at(step).row_stride for step in (19, 20)] == [1, 2]


@pytest.mark.parametrize("changes", [{"weight": 0.0}, {"plateau_steps": 0, "end_step": 0}])
def test_no_layers_where_the_weight_is_zero(changes: dict[str, object]) -> None:
    for step in (0, 30, 99):
        assert make_schedule(**changes).at(step) == GuidedStep()
    assert make_schedule().at(100) == GuidedStep()


def test_bias_looks_at_no_layer() -> None:
    assert make_schedule(weight=0.0, bias=8.0).at(3) == GuidedStep(bias=8.0)


def test_looking_at_layers_means_every_row_of_each() -> None:
    guided = GuidedStep.looking_at([2, 5])

    assert guided.layers == (GuidedLayer(layer=2, probability=1.0), GuidedLayer(layer=5, probability=1.0))
    assert {layer.first_row for layer in guided.layers} == {0}
    assert (guided.row_stride, guided.weight, guided.bias) == (1, 0.0, 0.0)


# Units of the weight


def test_weight_of_a_squared_error_is_for_512_tokens() -> None:
    assert scaled_weight(7.0, "squared", 512) == 7.0
    assert scaled_weight(7.0, "squared", 64) == 0.875


def test_weight_of_cross_entropy_is_for_any_length() -> None:
    assert scaled_weight(0.03, "cross_entropy", 64) == scaled_weight(0.03, "cross_entropy", 512) == 0.03


def test_the_authors_weight_is_seven_in_ours() -> None:
    """alpha 100, 12 layers of 3 pattern types, 512 tokens."""
    assert weight_of_alpha(100.0, 12 * 3, 512) == pytest.approx(7.03, abs=0.005)
    assert alpha_of_weight(7.03125, 12 * 3, 512) == pytest.approx(100.0)


@given(st.floats(0.0, 1e4), st.integers(1, 200), st.integers(1, 8192))
def test_units_convert_back(alpha: float, layer_types: int, length: int) -> None:
    weight = weight_of_alpha(alpha, layer_types, length)

    assert alpha_of_weight(weight, layer_types, length) == pytest.approx(alpha)
