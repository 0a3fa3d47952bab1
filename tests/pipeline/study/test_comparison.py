"""Comparisons against hand-computed values and scipy."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.study.comparison import (
    compare_runs,
    first_reach,
    paired_difference,
    sensitivity_of,
    spread_of,
    value_at,
)
from pipeline.study.curves import Curve
from tests.pipeline.study.synthetic import curve_of


@pytest.mark.parametrize(
    ("losses", "target", "reached"),
    [
        ([6.0, 5.0, 4.0, 3.0], 4.5, 25.0),
        ([6.0, 5.0, 4.0, 3.0], 4.0, 30.0),
        ([6.0, 5.0, 4.0, 3.0], 2.9, None),
        ([6.0, 5.0, 4.0, 3.0], 6.0, 10.0),
        ([6.0, 5.0, 4.0, 3.0], 7.0, 10.0),  # at the latest
        ([6.0, 4.0, 5.0, 4.0], 4.5, 17.5),  # once is enough
        ([6.0, None, 4.0, 3.0], 5.0, 30.0),  # nothing to interpolate from
        ([None, None], 5.0, None),
        ([], 5.0, None),
    ],
)
def test_target_is_reached_between_evaluations(losses, target, reached):
    assert first_reach([10.0, 20.0, 30.0, 40.0], losses, target) == reached


@pytest.mark.parametrize(
    ("position", "loss"), [(5.0, None), (10.0, 6.0), (15.0, 5.5), (25.0, None), (40.0, 3.0), (99.0, 3.0)]
)
def test_loss_at_a_position(position, loss):
    assert value_at([10.0, 20.0, 30.0, 40.0], [6.0, 5.0, None, 3.0], position) == loss
    assert value_at([], [], position) is None


def test_run_beside_its_baseline_by_hand():
    baseline = curve_of([6.0, 5.5, 5.0, 4.0], step_seconds=1.0)  # 40 steps, 40 seconds
    run = curve_of([6.0, 4.5, 3.5, 3.0], step_seconds=1.5)
    compared = compare_runs(run, baseline)
    assert compared.baseline_value == 4.0
    assert compared.difference == -1.0
    assert (compared.steps, compared.steps_fraction) == (25.0, 25 / 40)
    assert (compared.seconds, compared.seconds_fraction) == (37.5, 37.5 / 40)
    # 40 seconds are two thirds of the way from 30 to 45.
    assert compared.value_at_equal_seconds == pytest.approx(4.5 - 2 / 3)


def test_run_that_is_over_sooner_is_taken_at_its_end():
    baseline = curve_of([6.0, 5.0], step_seconds=2.0)
    assert compare_runs(curve_of([6.0, 4.0], step_seconds=1.0), baseline).value_at_equal_seconds == 4.0


def test_baseline_that_rises_again_says_so_when_compared_with_itself():
    overfitted = curve_of([6.0, 4.0, 3.0, 5.0])
    compared = compare_runs(overfitted, overfitted)
    assert (compared.steps, compared.steps_fraction, compared.difference) == (15.0, 15 / 40, 0.0)


def test_fractions_are_of_the_baselines_budget_not_of_the_runs():
    baseline, longer = (
        curve_of([6.0, 5.0], step_seconds=1.0),
        curve_of([6.5, 6.0, 5.5, 4.5], step_seconds=1.0),
    )
    compared = compare_runs(longer, baseline)
    assert (compared.steps_fraction, compared.seconds_fraction) == (35 / 20, 35 / 20)


def test_never_reached():
    compared = compare_runs(curve_of([6.0, 5.5]), curve_of([6.0, 5.0]))
    assert (compared.steps, compared.steps_fraction) == (None, None)
    assert (compared.seconds, compared.seconds_fraction) == (None, None)
    assert compared.difference == 0.5


def test_diverged_run_has_no_difference_but_may_have_reached_the_target():
    baseline = curve_of([6.0, 5.5, 5.0])
    compared = compare_runs(curve_of([6.0, 4.0, None], state="diverged"), baseline)
    assert compared.steps == 15.0
    assert compared.difference is None
    assert compared.value_at_equal_seconds is None


def test_last_loss_before_diverging_is_not_what_a_run_has_at_equal_seconds():
    gave_up = curve_of([6.0, 4.0], state="diverged")
    assert compare_runs(gave_up, curve_of([6.0, 5.5, 5.0])).value_at_equal_seconds is None


def test_runs_that_are_not_over_are_not_compared():
    whole = curve_of([6.0, 5.0])
    for other in (replace(whole, state="unfinished"), Curve(state="missing")):
        assert compare_runs(other, whole) is None
        assert compare_runs(whole, other) is None
    assert compare_runs(whole, replace(whole, state="diverged", losses=(6.0, None))) is None


def test_paired_difference_agrees_with_scipy_and_a_hand_value():
    baseline, cell = [5.0, 5.2, 4.9, 5.1], [4.8, 4.9, 4.9, 5.2]
    found = paired_difference(list(zip(baseline, cell)))
    test = stats.ttest_rel(cell, baseline)
    assert found.p_value == pytest.approx(test.pvalue, rel=1e-12)
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)), rel=1e-12)
    # Differences -0.2, -0.3, 0, +0.1: mean -0.1, sum of squares about it 0.01 + 0.04 + 0.01 + 0.04.
    assert found.mean == pytest.approx(-0.1)
    assert found.std == pytest.approx(math.sqrt(0.1 / 3))
    half = 3.182446305284263 * math.sqrt(0.1 / 3) / 2  # t of 3 degrees of freedom at 97.5 %, from a table
    assert found.interval == pytest.approx((-0.1 - half, -0.1 + half))
    assert found.relative_percent == pytest.approx(100 * -0.1 / 5.05)
    assert (found.num_pairs, found.num_lower, found.num_higher) == (4, 2, 1)


def test_nothing_is_tested_where_there_is_no_variance():
    single = paired_difference([(5.0, 4.0)])
    assert (single.mean, single.std, single.p_value, single.interval) == (-1.0, None, None, None)
    equal = paired_difference([(5.0, 4.9), (5.1, 5.0), (5.3, 5.2)])
    assert equal.mean == pytest.approx(-0.1)
    assert (equal.p_value, equal.interval, equal.num_lower) == (None, None, 3)
    assert paired_difference([]) is None


def test_spread():
    spread = spread_of([1.0, 2.0, 4.0])
    assert (spread.num, spread.min, spread.max) == (3, 1.0, 4.0)
    assert spread.mean == pytest.approx(7 / 3)
    assert spread.std == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert spread_of([3.0]).std is None
    assert spread_of([]) is None


def test_sensitivity_is_over_cells_and_counts_runs():
    def runs(*finals: float) -> list[Curve]:
        return [curve_of([7.0, final]) for final in finals]

    diverged = curve_of([7.0, None], state="diverged")
    cells = [runs(3.0, 5.0), runs(6.0, 6.8), [*runs(5.0), diverged], [diverged], [Curve(state="missing")]]
    found = sensitivity_of(cells, unigram_loss=6.5)
    # Means 4.0, 6.4 and 5.0.
    assert (found.num_cells, found.best, found.median) == (3, 4.0, 5.0)
    assert found.worst == pytest.approx(6.4)
    assert found.std == pytest.approx(np.std([4.0, 6.4, 5.0], ddof=1))
    assert (found.num_runs, found.num_diverged, found.num_above_unigram) == (7, 2, 3)
    assert sensitivity_of(cells, unigram_loss=None).num_above_unigram is None
    empty = sensitivity_of([[diverged]], unigram_loss=None)
    assert (empty.num_cells, empty.best, empty.std, empty.num_runs) == (0, None, None, 1)


# Multiples of 1/64, so that shifting them rounds nothing.
_LOSSES = st.lists(st.integers(1, 640).map(lambda n: n / 64), min_size=2, max_size=8)


@given(baseline=_LOSSES, other=_LOSSES, shift=st.integers(-64, 6400).map(lambda n: n / 64))
def test_shifting_all_losses_changes_no_fraction(baseline, other, shift):
    def compare(by: float):
        run, against = ([loss + by for loss in losses] for losses in (other, baseline))
        return compare_runs(curve_of(run, step_seconds=0.75), curve_of(against))

    plain, shifted = compare(0.0), compare(shift)
    assert shifted.steps_fraction == plain.steps_fraction
    assert shifted.seconds_fraction == plain.seconds_fraction
    assert shifted.difference == plain.difference


@given(baseline=_LOSSES, other=_LOSSES)
def test_target_is_reached_where_the_curve_has_its_loss(baseline, other):
    run = curve_of(other)
    compared = compare_runs(run, curve_of(baseline))
    if compared.steps is None:
        assert min(other) > baseline[-1]
    elif compared.steps > run.steps[0]:
        assert value_at(run.steps, run.losses, compared.steps) == pytest.approx(baseline[-1])
    else:
        assert other[0] <= baseline[-1]
