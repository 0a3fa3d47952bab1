from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.schema import Recipe
from pipeline.training.learning_rate import learning_rate_at

MakeRecipe = Callable[..., Recipe]
PEAK = 2.0


@pytest.fixture
def rates(make_recipe: MakeRecipe) -> Callable[..., list[float]]:
    """Learning rates of all steps of a run of 100, and of one more."""

    def make(**schedule: object) -> list[float]:
        recipe = make_recipe({"schedule": schedule, "train.num_steps": 100, "optimizer.learning_rate": PEAK})
        return [learning_rate_at(recipe, step) for step in range(101)]

    return make


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd"])
def test_warmup_rises_linearly_to_the_peak(rates: Callable, kind: str) -> None:
    found = rates(kind=kind, warmup=10)

    assert found[:10] == pytest.approx([PEAK * step / 10 for step in range(1, 11)])
    assert found[10] == pytest.approx(PEAK)


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("final_ratio", [0.0, 0.1, 1.0])
def test_the_end_is_the_final_ratio(rates: Callable, kind: str, final_ratio: float) -> None:
    found = rates(kind=kind, warmup=0.1, final_ratio=final_ratio)

    assert found[100] == pytest.approx(PEAK * final_ratio)
    assert found[99] > 0.0  # the last step trained still moves


def test_linear_is_half_way_in_the_middle(rates: Callable) -> None:
    found = rates(kind="linear", warmup=20)

    assert found[60] == pytest.approx(PEAK / 2)
    assert found[40] == pytest.approx(PEAK * 0.75)


def test_cosine_is_slow_at_both_ends(rates: Callable) -> None:
    found = rates(kind="cosine", warmup=20)

    assert found[60] == pytest.approx(PEAK / 2)
    assert found[40] == pytest.approx(PEAK * 0.853553, rel=1e-5)  # (1 + cos 45 degrees) / 2
    assert found[80] == pytest.approx(PEAK * 0.146447, rel=1e-5)


def test_wsd_stays_at_the_peak_until_its_decay(rates: Callable) -> None:
    found = rates(kind="wsd", warmup=10, decay=20)

    assert found[10:81] == [PEAK] * 71
    assert found[90] == pytest.approx(PEAK / 2)


def test_no_warmup_starts_at_the_peak(rates: Callable) -> None:
    assert rates(kind="linear", warmup=0)[0] == PEAK


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["linear", "cosine", "wsd"]),
    warmup=st.integers(0, 60),
    decay=st.integers(0, 40),
    final_ratio=st.floats(0.0, 1.0),
)
def test_rate_rises_to_the_peak_and_never_again(
    make_recipe: MakeRecipe, kind: str, warmup: int, decay: int, final_ratio: float
) -> None:
    schedule = {"kind": kind, "warmup": warmup, "decay": decay, "final_ratio": final_ratio}
    recipe = make_recipe({"schedule": schedule, "train.num_steps": 100, "optimizer.learning_rate": PEAK})

    found = [learning_rate_at(recipe, step) for step in range(100)]

    tiny = 1e-12
    assert all(0.0 < rate <= PEAK + tiny for rate in found)
    assert max(found) == pytest.approx(PEAK)
    assert all(before < after for before, after in pairwise(found[:warmup]))
    assert all(before >= after - tiny for before, after in pairwise(found[warmup:]))
