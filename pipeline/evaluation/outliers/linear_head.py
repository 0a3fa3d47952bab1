"""Logistic regression on frozen embeddings. Shapes: N examples, C classes, D dimensions."""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.outliers.arrays import FloatArray, IntArray

_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier of standardized embeddings.

    Attributes:
        scaler: standardizes embeddings.
        weights: (C, D).
        biases: (C,).
    """

    scaler: StandardScaler
    weights: FloatArray
    biases: FloatArray

    @staticmethod
    def fit(embeddings: FloatArray, labels: IntArray) -> "LinearHead":
        """From embeddings (N, D) and classes 0 ... C-1 (N,), with scikit-learn's usual L2 penalty."""
        scaler = StandardScaler().fit(embeddings)
        model = LogisticRegression(max_iter=_MAX_ITERATIONS).fit(scaler.transform(embeddings), labels)
        return LinearHead(scaler, *_by_class(model))

    def fit_further_class(
        self, embeddings: FloatArray, labels: IntArray, example_weights: FloatArray
    ) -> "LinearHead":
        """Fitted anew to examples among which there is a further class C, each counting as its weight says.

        The result is that of any start, since the loss is convex; starting here is several times as fast.
        """
        model = LogisticRegression(max_iter=_MAX_ITERATIONS, warm_start=True)
        model.coef_ = np.vstack([self.weights, np.zeros_like(self.weights[:1])])
        model.intercept_ = np.append(self.biases, 0.0)
        model.fit(self.scaler.transform(embeddings), labels, example_weights)
        return LinearHead(self.scaler, *_by_class(model))

    def logits(self, embeddings: FloatArray) -> FloatArray:
        """Of embeddings (N, D), (N, C)."""
        return self.scaler.transform(embeddings) @ self.weights.T + self.biases


def _by_class(model: LogisticRegression) -> tuple[FloatArray, FloatArray]:
    """Weights and biases of every class; of two classes scikit-learn keeps only their difference."""
    if len(model.coef_) > 1:
        return model.coef_, model.intercept_
    return (
        np.concatenate([-model.coef_, model.coef_]) / 2,
        np.concatenate([-model.intercept_, model.intercept_]) / 2,
    )
