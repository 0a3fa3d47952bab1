"""Norms of a parameter of 40 million values are exact under every ZeRO setting: clipping and trust ratios."""

import sys

import pytest

from tests.e2e.running import run_command


@pytest.mark.parametrize(
    ("processes", "template", "optimizer"),
    [
        (1, "zero0", "adamw"),
        (1, "zero0", "lamb"),
        (1, "zero1", "adamw"),
        (1, "zero1", "lamb"),
        (1, "zero2", "lamb"),
        (1, "zero2_offload", "lamb"),
        (2, "zero3", "lamb"),
        (1, "zero3_offload", "lamb"),
    ],
)
def test_a_clipped_step_is_that_of_float64(processes: int, template: str, optimizer: str) -> None:
    command = [sys.executable, "-m", "tests.e2e.large_norm", str(processes), template, optimizer]
    finished = run_command(command)
    assert finished.code == 0, finished.output
