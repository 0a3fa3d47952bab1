"""Few-shot outlier exposure (Fort, Ren and Lakshminarayanan 2021) on frozen embeddings.

A handful of known outliers become a class of their own beside the classes in distribution; its probability is
the score. The authors' public code does not have this part. Here the classifier is logistic regression, and
the outliers together count as much as an average class.

Shapes: N training examples, C classes, D dimensions, K outliers, M scored examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from pipeline.evaluation.outliers.arrays import FloatArray, IntArray
from pipeline.evaluation.outliers.linear_head import LinearHead
from pipeline.evaluation.outliers.scores import detection

SHOTS = (1, 2, 5, 10)
NUM_DRAWS = 5


@dataclass(frozen=True)
class Exposure:
    """Training examples in distribution and what was fitted to them.

    Attributes:
        train: their embeddings, (N, D).
        labels: their classes 0 ... C-1, (N,).
        head: the classifier fitted to them, where fitting with outliers starts.
    """

    train: FloatArray
    labels: IntArray
    head: LinearHead

    def scores(self, outliers: FloatArray, embeddings: FloatArray) -> FloatArray:
        """Probability of the outlier class, (M,), of embeddings (M, D) after K outliers (K, D) were seen."""
        num_classes = int(self.labels.max()) + 1
        weight = len(self.train) / num_classes / len(outliers)
        head = self.head.fit_further_class(
            np.concatenate([self.train, outliers]),
            np.append(self.labels, np.full(len(outliers), num_classes)),
            np.append(np.ones(len(self.train)), np.full(len(outliers), weight)),
        )
        return softmax(head.logits(embeddings), axis=1)[:, num_classes]

    def auroc_by_shots(
        self, outliers: FloatArray, inside: FloatArray, outside: FloatArray, shots: Sequence[int] = SHOTS
    ) -> dict[str, dict[str, float]]:
        """AUROC by number of outliers seen: {"5": {"auroc": mean, "auroc_std": standard deviation}}.

        Mean and deviation are those over NUM_DRAWS draws without replacement, which depend on nothing but the
        number of outliers to draw from. Numbers of shots larger than that are left out.

        Args:
            outliers: to draw from.
            inside: scored examples in distribution.
            outside: scored examples out of distribution.
            shots: how many outliers are seen.
        """
        embeddings = np.concatenate([inside, outside])
        found = {}
        for num_shots in (number for number in shots if number <= len(outliers)):
            aurocs = []
            for draw in range(NUM_DRAWS):
                generator = np.random.default_rng([num_shots, draw])
                seen = outliers[generator.choice(len(outliers), num_shots, replace=False)]
                scores = self.scores(seen, embeddings)
                aurocs.append(detection(scores[: len(inside)], scores[len(inside) :])["auroc"])
            found[str(num_shots)] = {
                "auroc": float(np.mean(aurocs)),
                "auroc_std": float(np.std(aurocs, ddof=1)),
            }
        return found
