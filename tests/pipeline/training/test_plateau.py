"""When guidance has had its time, and what is told if it brought nothing."""

import pytest

from pipeline.training.plateau import explain, is_due


@pytest.mark.parametrize(
    ("step", "formed_step", "measured", "due"),
    [
        (199, 50, True, False),
        (200, 50, True, True),
        (499, None, True, False),
        (500, None, True, True),
        (900, 230, True, False),
        (300, 50, False, False),
        (500, 50, False, True),
    ],
)
def test_guidance_has_three_times_as_long_again_as_the_patterns_took(step, formed_step, measured, due):
    assert is_due(step, formed_step, 500, measured=measured) is due


def test_advice_depends_on_whether_the_patterns_formed():
    assert "formed at step 40" in explain(100, 6.8, 6.87, 40)
    assert "lower guidance.weight" in explain(100, 6.8, 6.87, 40)
    assert "have not formed" in explain(100, 6.8, 6.87, None)
    assert "6.800" in explain(100, 6.8, 6.87, None)
