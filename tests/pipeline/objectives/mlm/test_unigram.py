import math

import numpy as np
import pytest

from pipeline.data.masking import IGNORED_LABEL
from pipeline.objectives.mlm.unigram import unigram_loss

ORDINARY = np.array([2, 3, 4])


def test_frequent_tokens_are_cheap() -> None:
    counts = np.array([50, 50, 7, 1, 0])  # special tokens first; smoothed: 8, 2 and 1 of 11

    loss = unigram_loss(counts, ORDINARY, np.array([[2, 3], [4, IGNORED_LABEL]]))

    assert loss == pytest.approx(-(math.log(8 / 11) + math.log(2 / 11) + math.log(1 / 11)) / 3)


def test_it_is_the_best_a_model_without_context_can_do() -> None:
    generator = np.random.default_rng(0)
    labels = generator.choice([2, 3, 4], p=[0.7, 0.2, 0.1], size=200_000)
    counts = np.bincount(generator.choice([2, 3, 4], p=[0.7, 0.2, 0.1], size=200_000), minlength=5)

    entropy = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1))

    assert unigram_loss(counts, ORDINARY, labels) == pytest.approx(entropy, abs=0.01)
