"""What a run on the unigram plateau is told: the cause that was seen, and nothing that is set already."""

from typing import Any

import pytest

from pipeline.config.schema import GuidanceSection
from pipeline.training.plateau_advice import Progress, explain

FORMED = Progress(100, 6.8, 6.87, 40)
UNFORMED = Progress(100, 6.8, 6.87, None)
NEIGHBOURS = {"next": 1, "previous": 1}
END = "compare with a run of guidance.weight=0"


def told(progress: Progress, layers: int = 1, **guidance: Any) -> str:
    return explain(progress, GuidanceSection(**{"heads": NEIGHBOURS, **guidance}), layers)


def advice(progress: Progress, layers: int = 1, **guidance: Any) -> str:
    return told(progress, layers, **guidance).partition("; ")[2]


def test_the_warning_has_step_cause_and_both_losses() -> None:
    assert told(FORMED).startswith(
        "step 100: the guided patterns formed at step 40, but the held-out loss, 6.800, is still that of a "
        "model that knows only how frequent tokens are (6.870); "
    )
    assert "the guided patterns have not formed" in told(UNFORMED)


@pytest.mark.parametrize("unmeasured", [{"dense": 20}, {"method": "bias"}])
def test_patterns_that_nothing_measured_are_not_said_to_be_missing(unmeasured: dict[str, Any]) -> None:
    assert told(UNFORMED, **unmeasured).startswith("step 100: guidance has acted for 100 steps, but")


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        ({}, "lower guidance.weight, now 0.1"),
        ({"weight": 0.4}, "lower guidance.weight, now 0.4"),
        ({"error": "squared"}, "lower guidance.weight, now 7"),
        ({"alpha": 25.0}, "lower guidance.alpha, now 25"),
    ],
)
def test_what_is_to_be_lowered_is_named_with_its_value(guidance: dict[str, Any], expected: str) -> None:
    assert advice(FORMED, **guidance) == f"{expected}, or {END}"


def test_a_bias_is_lowered_although_no_patterns_are_seen_to_form() -> None:
    assert advice(UNFORMED, method="bias") == f"lower guidance.bias, now 8, or {END}"


def test_fewer_patterns_are_advised_only_where_others_than_the_neighbours_are_guided() -> None:
    assert advice(UNFORMED) == END
    assert advice(UNFORMED, heads={"next": 1}) == END
    assert advice(UNFORMED, heads="paper") == f"guide next and previous alone, without first, or {END}"
    assert advice(UNFORMED, heads={"0-": {"self": 1, "last": 1}}) == (
        f"guide next and previous alone, without self, last, or {END}"
    )


def test_fewer_layers_are_advised_only_where_there_are_several() -> None:
    assert advice(UNFORMED, layers=1) == END
    assert advice(UNFORMED, layers=2) == f"guide fewer than 2 layers (guidance.layers), or {END}"
