"""Scores against closed forms, scikit-learn and SciPy, and what must not change them."""

import math

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.covariance import EmpiricalCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from pipeline.evaluation.outliers.scores import Gaussians, detection, distance_scores, energy, max_softmax


def classes(sizes: list[int], num_dimensions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated Gaussians with one covariance, as many examples of each as said."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(num_dimensions, num_dimensions))
    means = 2 * generator.normal(size=(len(sizes), num_dimensions))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return means[labels] + generator.normal(size=(len(labels), num_dimensions)) @ mixing, labels


def test_softmax_score_by_hand():
    logits = np.log([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0]])
    assert max_softmax(logits) == pytest.approx([1 - 5 / 8, 1 - 1 / 3])


def test_energy_by_hand_and_for_logits_too_large_for_exp():
    assert energy(np.log([[1.0, 2.0, 5.0]])) == pytest.approx([-math.log(8)])
    assert energy(np.array([[1000.0, 1000.0]])) == pytest.approx([-1000 - math.log(2)])


def test_energy_sees_what_softmax_does_not():
    """Small logits say "none of them" although one is much likelier than the other."""
    familiar, strange = np.array([[9.0, 4.0]]), np.array([[2.0, -3.0]])
    assert max_softmax(familiar) == pytest.approx(max_softmax(strange))
    assert energy(strange) > energy(familiar)


def test_pooled_covariance_is_that_over_examples_when_classes_are_unequal():
    train, labels = classes([400, 100, 50, 20], 6)
    fitted = Gaussians.fit(train, labels)
    by_hand = sum(
        np.outer(row - train[labels == label].mean(0), row - train[labels == label].mean(0))
        for row, label in zip(train, labels)
    ) / len(train)
    # W W^T is the inverse of the covariance that W makes the identity.
    assert np.linalg.inv(fitted.whitening @ fitted.whitening.T) == pytest.approx(by_hand, rel=1e-9)
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(train, labels)
    assert by_hand == pytest.approx(discriminant.covariance_, rel=1e-9)
    averaged = np.mean([np.cov(train[labels == label].T, bias=True) for label in range(4)], axis=0)
    assert by_hand != pytest.approx(averaged, rel=0.02)


def test_distance_is_scikit_learns_to_the_nearest_class():
    train, labels = classes([60, 40, 30], 5)
    examples = classes([5, 5, 5], 5, seed=1)[0]
    means = np.stack([train[labels == label].mean(0) for label in range(3)])
    covariance = EmpiricalCovariance(assume_centered=True).fit(train - means[labels])
    expected = np.min([covariance.mahalanobis(examples - mean) for mean in means], axis=0)
    assert Gaussians.fit(train, labels).mahalanobis(examples) == pytest.approx(expected, rel=1e-9)


def test_relative_distance_is_the_difference_to_a_single_gaussian():
    train, labels = classes([60, 40, 30], 5)
    examples = classes([5, 5, 5], 5, seed=1)[0]
    single = EmpiricalCovariance().fit(train).mahalanobis(examples)
    scores = distance_scores(train, labels, examples)
    assert scores["one_gaussian"] == pytest.approx(single, rel=1e-9)
    assert scores["relative_mahalanobis"] == pytest.approx(scores["mahalanobis"] - single, rel=1e-9)


def test_distances_do_not_depend_on_the_coordinates():
    train, labels = classes([60, 40, 30], 5)
    examples = classes([5, 5, 5], 5, seed=1)[0]
    matrix, shift = np.random.default_rng(2).normal(size=(5, 5)), 100.0
    moved = distance_scores(train @ matrix + shift, labels, examples @ matrix + shift)
    for name, scores in distance_scores(train, labels, examples).items():
        assert moved[name] == pytest.approx(scores, rel=1e-8, abs=1e-8)


def test_direction_that_holds_only_rounding_does_not_count():
    """As after a layer norm: the coordinates' sum is constant, but for float32."""
    train, labels = classes([60, 40, 30], 5)
    examples = classes([5, 5, 5], 5, seed=1)[0]
    expected = distance_scores(train, labels, examples)

    def with_constant_sum(values: np.ndarray) -> np.ndarray:
        return np.column_stack([values, 3 - values.sum(1)]).astype(np.float32).astype(float)

    found = distance_scores(with_constant_sum(train), labels, with_constant_sum(examples))
    for name, scores in expected.items():
        assert found[name] == pytest.approx(scores, rel=1e-4, abs=1e-4)


def test_auroc_of_the_distance_has_its_closed_form():
    """Chi-square inside, noncentral chi-square outside: the probability that the second is larger."""
    num_dimensions, shift, num_examples = 8, 2.0, 20_000
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(num_dimensions, num_dimensions))
    train, inside, outside = generator.normal(size=(3, num_examples, num_dimensions))
    outside[:, 0] += shift
    gaussian = Gaussians.fit_one(train @ mixing)
    found = detection(*(gaussian.mahalanobis(examples @ mixing) for examples in (inside, outside)))
    expected, _ = integrate.quad(
        lambda x: stats.chi2.pdf(x, num_dimensions) * stats.ncx2.sf(x, num_dimensions, shift**2), 0, np.inf
    )
    assert 0.6 < expected < 0.9
    assert found["auroc"] == pytest.approx(expected, abs=0.01)


def test_examples_from_inside_are_not_detected():
    examples, labels = classes([4000, 4000], 5)
    order = np.random.default_rng(3).permutation(len(examples))
    train, inside, outside = order[:4000], order[4000:6000], order[6000:]
    scored = np.concatenate([examples[inside], examples[outside]])
    for name, scores in distance_scores(examples[train], labels[train], scored).items():
        assert detection(scores[:2000], scores[2000:])["auroc"] == pytest.approx(0.5, abs=0.03), name


def test_auroc_counts_pairs_and_half_of_the_ties():
    # Of the six pairs 5 > 1, 5 > 2, 5 > 3, 2 > 1 are right, 2 = 2 is half right, 2 < 3 is wrong.
    assert detection(np.array([1.0, 2.0, 3.0]), np.array([5.0, 2.0]))["auroc"] == pytest.approx(4.5 / 6)


def test_auroc_of_inside_and_outside_exchanged_is_the_rest():
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=70), generator.normal(1, size=30)
    one, other = detection(inside, outside)["auroc"], detection(outside, inside)["auroc"]
    assert one > 0.6
    assert one + other == pytest.approx(1)


def test_average_precision_by_hand_has_outside_as_positive():
    # From the furthest: out, in, out, in. Precision where recall grows: 1 and 2/3.
    assert detection(np.array([3.0, 1.0]), np.array([4.0, 2.0]))["aupr"] == pytest.approx((1 + 2 / 3) / 2)


def test_false_positive_rate_by_hand_has_inside_as_positive():
    """Of 20 inside 19 must pass, so the threshold is the second largest of theirs, 18."""
    inside = np.arange(20.0)
    assert detection(inside, np.array([17.5, 18.5, 30.0, 40.0]))["fpr_at_95_tpr"] == 1 / 4
    assert detection(inside, np.array([17.5, 17.0, 3.0, 40.0]))["fpr_at_95_tpr"] == 3 / 4
    assert detection(inside, np.array([18.0, 30.0]))["fpr_at_95_tpr"] == 1 / 2  # what equals it passes
    # 21 inside: 20 of them must pass.
    assert detection(np.arange(21.0), np.array([18.5, 19.5]))["fpr_at_95_tpr"] == 1 / 2
