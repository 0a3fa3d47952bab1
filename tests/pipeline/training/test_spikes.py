import math
from statistics import median

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.spikes import SpikeDetector


def spikes(losses: list[float], sigmas: float | None = 6.0) -> list[int]:
    detector = SpikeDetector(sigmas)
    return [step for step, loss in enumerate(losses) if detector.is_spike(loss)]


def noise(count: int, level: float = 5.0) -> list[float]:
    return (level + 0.05 * np.random.default_rng(0).standard_normal(count)).tolist()


def test_noise_and_a_falling_loss_have_no_spikes() -> None:
    assert spikes(noise(2000)) == []
    falling = [5.0 * math.exp(-step / 200) + loss for step, loss in enumerate(noise(2000))]
    assert spikes(falling) == []


def test_a_single_high_loss_is_one() -> None:
    losses = noise(300)
    losses[200] += 0.8
    assert spikes(losses) == [200]
    assert spikes(losses, sigmas=None) == []
    assert spikes(losses, sigmas=40.0) == []


def test_one_spike_does_not_hide_the_next() -> None:
    losses = noise(300)
    for step in range(150, 300, 10):
        losses[step] += 5.0
    assert spikes(losses) == list(range(150, 300, 10))


def test_of_several_in_a_row_the_first_is_told() -> None:
    losses = noise(300)
    losses[200:210] = [9.0] * 10
    assert spikes(losses) == [200]


def test_a_level_that_stays_becomes_usual() -> None:
    losses = [*noise(200), *noise(400, level=6.0)]
    losses[500] += 0.8
    assert spikes(losses) == [200, 500]


def test_the_first_steps_are_not_judged() -> None:
    losses = noise(40)
    losses[19] += 5.0
    assert spikes(losses) == []
    losses[20] += 5.0
    assert spikes(losses) == [20]


def test_losses_that_hardly_differ_make_no_spike_of_next_to_nothing() -> None:
    assert spikes([5.0] * 50 + [5.04]) == []
    assert spikes([5.0] * 50 + [5.07]) == [50]


def test_usual_is_the_median_of_the_last_hundred() -> None:
    detector = SpikeDetector(None)
    assert detector.usual is None
    for loss in range(150):
        detector.is_spike(float(loss))
    assert detector.usual == median(range(50, 150))


@given(st.lists(st.floats(0.1, 20.0), max_size=150), st.lists(st.floats(0.1, 20.0), max_size=50))
def test_going_on_from_a_state_is_going_on(before: list[float], after: list[float]) -> None:
    whole = SpikeDetector(3.0)
    for loss in before:
        whole.is_spike(loss)
    resumed = SpikeDetector(3.0)
    resumed.restore(whole.state())

    assert [resumed.is_spike(loss) for loss in after] == [whole.is_spike(loss) for loss in after]
    assert resumed.state() == whole.state()


@given(st.lists(st.floats(0.1, 1e6), min_size=20, max_size=200))
def test_nothing_up_to_the_usual_loss_is_a_spike(losses: list[float]) -> None:
    detector = SpikeDetector(1.0)
    for loss in losses:
        detector.is_spike(loss)
    assert detector.usual is not None
    assert not detector.is_spike(detector.usual)


def test_losses_of_another_corpus_are_no_measure() -> None:
    """A level that rises with the corpus is no spike; there is a new usual loss after twenty steps."""
    detector = SpikeDetector(6.0)
    losses = [*noise(50), *noise(50, level=7.0)]
    losses[90] += 0.8
    found = []
    for step, loss in enumerate(losses):
        detector.begin("short" if step < 50 else "long")
        if detector.is_spike(loss):
            found.append(step)
        resumed = SpikeDetector(6.0)  # at every step, a border included
        resumed.restore(detector.state())
        detector = resumed
    assert found == [90]
