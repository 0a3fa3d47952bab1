"""Seeing a few outliers must help, and more than seeing a few examples that are none."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.outliers.exposure import NUM_DRAWS, Exposure
from pipeline.evaluation.outliers.linear_head import LinearHead
from pipeline.evaluation.outliers.scores import detection, distance_scores, max_softmax

NUM_CLASSES, NUM_DIMENSIONS = 6, 12
MEANS = 0.8 * np.random.default_rng(7).normal(
    size=(NUM_CLASSES + 1, NUM_DIMENSIONS)
)  # the last is the outliers'


def examples(per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(NUM_CLASSES), per_class)
    return MEANS[labels] + np.random.default_rng(seed).normal(size=(len(labels), NUM_DIMENSIONS)), labels


def outliers(number: int, seed: int) -> np.ndarray:
    return MEANS[-1] + np.random.default_rng(seed).normal(size=(number, NUM_DIMENSIONS))


@pytest.fixture(scope="module")
def exposure() -> Exposure:
    train, labels = examples(60, seed=0)
    return Exposure(train, labels, LinearHead.fit(train, labels))


def test_outliers_help_more_than_held_out_examples_do(exposure):
    inside, outside = examples(60, seed=1)[0], outliers(200, seed=2)
    shown, control = (
        exposure.auroc_by_shots(candidates, inside, outside)
        for candidates in (outliers(30, seed=3), examples(10, seed=4)[0])
    )
    assert list(shown) == list(control) == ["1", "2", "5", "10"]
    for shots in shown:
        assert shown[shots]["auroc"] > control[shots]["auroc"] + 0.05
    assert shown["1"]["auroc"] < shown["10"]["auroc"] < 0.999  # where all is 1, nothing is shown
    scores = distance_scores(exposure.train, exposure.labels, np.concatenate([inside, outside]))
    assert shown["10"]["auroc"] > detection(*np.split(scores["mahalanobis"], [len(inside)]))["auroc"]


def test_outliers_together_weigh_as_much_as_a_class(exposure):
    """The same as repeating each of them."""
    seen, scored = outliers(4, seed=3), examples(5, seed=1)[0]
    repeated = np.repeat(seen, 60 // 4, axis=0)
    features = np.concatenate([exposure.train, repeated])
    labels = np.append(exposure.labels, np.full(len(repeated), NUM_CLASSES))
    scaler = StandardScaler().fit(exposure.train)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(features), labels)
    expected = model.predict_proba(scaler.transform(scored))[:, NUM_CLASSES]
    assert exposure.scores(seen, scored) == pytest.approx(expected, abs=0.01)


def test_mean_and_deviation_are_over_draws(exposure):
    inside, outside = examples(30, seed=1)[0], outliers(50, seed=2)
    found = exposure.auroc_by_shots(outliers(30, seed=3), inside, outside, shots=[2])
    assert found == exposure.auroc_by_shots(outliers(30, seed=3), inside, outside, shots=[2])
    assert found["2"]["auroc_std"] > 0
    # All there are: every draw is the same but for the order.
    all_seen = exposure.auroc_by_shots(outliers(2, seed=3), inside, outside)
    assert list(all_seen) == ["1", "2"]
    assert all_seen["2"]["auroc_std"] == pytest.approx(0, abs=1e-3)
    assert NUM_DRAWS > 1


def test_head_is_logistic_regression_on_standardized_embeddings():
    train, labels = examples(20, seed=0)
    train[:, 3] = 1e4 * train[:, 3] + 1e6
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(train), labels)
    expected = model.predict_proba(scaler.transform(train))
    head = LinearHead.fit(train, labels)
    assert max_softmax(head.logits(train)) == pytest.approx(1 - expected.max(1), abs=1e-9)
    assert (head.logits(train).argmax(1) == model.predict(scaler.transform(train))).all()


def test_two_classes_have_two_logits():
    train, labels = examples(20, seed=0)
    train, labels = train[labels < 2], labels[labels < 2]
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(train), labels)
    logits = LinearHead.fit(train, labels).logits(train)
    assert logits.shape == (40, 2)
    expected = 1 - model.predict_proba(scaler.transform(train)).max(1)
    assert max_softmax(logits) == pytest.approx(expected, abs=1e-9)
    exposure = Exposure(train, labels, LinearHead.fit(train, labels))
    scores = exposure.scores(outliers(3, seed=1), np.concatenate([train, outliers(40, seed=2)]))
    assert detection(scores[:40], scores[40:])["auroc"] > 0.8
