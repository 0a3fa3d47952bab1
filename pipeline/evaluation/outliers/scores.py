"""Scores of how far out of distribution an example lies, and how well a score tells so.

After Fort, Ren and Lakshminarayanan 2021, "Exploring the Limits of Out-of-Distribution Detection". A higher
score is further out, always. Shapes: N examples, C classes, D dimensions, R <= D of them with variance.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from sklearn.covariance import empirical_covariance
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from pipeline.evaluation.outliers.arrays import FloatArray, IntArray

# Embeddings are computed in float32, so a direction whose deviation is less than about 3e-6 of the largest
# holds nothing but rounding. Encoders have such directions: a layer norm at their end makes one.
_SMALLEST_VARIANCE = 1e-11
_TRUE_POSITIVE_RATE = 0.95


def max_softmax(logits: FloatArray) -> FloatArray:
    """One minus the probability of the likeliest class, (N,), from logits (N, C)."""
    return 1.0 - softmax(logits, axis=1).max(axis=1)


def energy(logits: FloatArray) -> FloatArray:
    """The free energy -log sum exp of logits (N, C) at temperature 1, (N,). Liu et al. 2020."""
    return -logsumexp(logits, axis=1)


@dataclass(frozen=True)
class Gaussians:
    """One Gaussian for each class, all with the same covariance.

    Attributes:
        centre: mean of all examples, (D,).
        whitening: maps deviations to coordinates in which the covariance is the identity, (D, R).
        means: of the classes in these coordinates, (C, R).
    """

    centre: FloatArray
    whitening: FloatArray
    means: FloatArray

    @staticmethod
    def fit(embeddings: FloatArray, labels: IntArray) -> "Gaussians":
        """From embeddings (N, D) and classes 0 ... C-1 (N,), each of which must occur.

        The covariance is the deviations' from their class means, divided by N: pooled over examples, not
        averaged over classes. Directions without variance are left out, as a pseudo-inverse leaves them out.
        """
        centre = embeddings.mean(axis=0)
        deviations = embeddings - centre
        means = np.stack([deviations[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
        covariance = empirical_covariance(deviations - means[labels], assume_centered=True)
        variances, directions = eigh(covariance)
        kept = variances > _SMALLEST_VARIANCE * variances[-1]
        whitening = directions[:, kept] / np.sqrt(variances[kept])
        return Gaussians(centre, whitening, means @ whitening)

    @staticmethod
    def fit_one(embeddings: FloatArray) -> "Gaussians":
        """A single Gaussian for all embeddings (N, D): needs no labels."""
        return Gaussians.fit(embeddings, np.zeros(len(embeddings), np.int64))

    def mahalanobis(self, embeddings: FloatArray) -> FloatArray:
        """Squared Mahalanobis distance to the nearest class mean, (N,), of embeddings (N, D)."""
        whitened = (embeddings - self.centre) @ self.whitening
        return cdist(whitened, self.means, "sqeuclidean").min(axis=1)


def distance_scores(train: FloatArray, labels: IntArray, embeddings: FloatArray) -> dict[str, FloatArray]:
    """Mahalanobis distances of embeddings (N, D) from the training embeddings' Gaussians, each (N,).

    Args:
        train: embeddings of the training examples.
        labels: their classes.
        embeddings: what is scored.

    Returns:
        "mahalanobis" from the nearest class, "one_gaussian" from a single Gaussian of all, without labels,
        and "relative_mahalanobis", the first minus the second (Ren et al. 2021).
    """
    nearest = Gaussians.fit(train, labels).mahalanobis(embeddings)
    background = Gaussians.fit_one(train).mahalanobis(embeddings)
    return {
        "mahalanobis": nearest,
        "relative_mahalanobis": nearest - background,
        "one_gaussian": background,
    }


def detection(inside: FloatArray, outside: FloatArray) -> dict[str, float]:
    """How well a score tells examples outside the distribution from those inside.

    Args:
        inside: scores of examples in distribution, (N,).
        outside: scores of examples out of distribution, any other number.

    Returns:
        "auroc": how often an example outside has a higher score than one inside, a tie counting half.
        "aupr": average precision with those outside as positive; chance is their share.
        "fpr_at_95_tpr": with those inside as positive, as is usual (Liang et al. 2018): the share of those
            outside that pass for inside at the strictest threshold that lets 95 % of those inside pass.
    """
    scores = np.concatenate([inside, outside])
    is_outside = np.repeat([0, 1], [len(inside), len(outside)])
    false_positive, true_positive, _ = roc_curve(1 - is_outside, -scores, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(is_outside, scores)),
        "aupr": float(average_precision_score(is_outside, scores)),
        "fpr_at_95_tpr": float(false_positive[np.argmax(true_positive >= _TRUE_POSITIVE_RATE)]),
    }
