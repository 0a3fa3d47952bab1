"""Task ood: can the encoder tell queries that belong to none of the known intents?

After Fort, Ren and Lakshminarayanan 2021, "Exploring the Limits of Out-of-Distribution Detection", on queries
instead of images. They find that embeddings of pretraining alone separate poorly and those of a fine-tuned
encoder well, so both are measured.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.fine_tuning.fine_tuner import FineTuner, tokenize_texts
from pipeline.evaluation.fine_tuning.seeds import seed_of, seed_units
from pipeline.evaluation.outliers.arrays import FloatArray
from pipeline.evaluation.outliers.embeddings import Pooling, embed, load_pretrained, outputs
from pipeline.evaluation.outliers.exposure import Exposure
from pipeline.evaluation.outliers.intent_data import find_intent_file, read_intent_data
from pipeline.evaluation.outliers.linear_head import LinearHead
from pipeline.evaluation.outliers.scores import detection, distance_scores, energy, max_softmax
from pipeline.evaluation.outliers.summary import summarize
from pipeline.evaluation.task import Measured, Settings, Summary, Task

_FROZEN = "frozen"


class OutOfDistribution:
    """The task begun on an encoder."""

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Read the data."""
        assert settings.data is not None
        assert settings.seeds is not None
        self._encoder, self._settings = encoder, settings
        self._data = read_intent_data(settings.data, settings.limit)
        self.units: Sequence[str] = [_FROZEN, *seed_units(settings.seeds)]

    def measure(self, unit: str) -> Measured:
        """Of the pretrained encoder, or of one fine-tuned on the intents with a seed."""
        return self._measure_frozen() if unit == _FROZEN else self._measure_seed(seed_of(unit))

    def summarize(self, measured: Mapping[str, Measured]) -> Summary:
        """Mean over the seeds beside what the pretrained encoder gives."""
        frozen = [found for unit, found in measured.items() if unit == _FROZEN]
        fine_tuned = [found for unit, found in measured.items() if unit != _FROZEN]
        return summarize(
            {name: found for name, found in (("fine-tuned", fine_tuned), (_FROZEN, frozen)) if found}
        )

    def _measure_frozen(self) -> Measured:
        """The classifier is logistic regression on the embeddings."""
        vectors = self._embeddings(load_pretrained(self._encoder), Pooling.MEAN)
        head = LinearHead.fit(vectors["train"], self._data.train.labels)
        return self._measured(vectors, head, head.logits(_scored(vectors)))

    def _measure_seed(self, seed: int) -> Measured:
        """The classifier is the fine-tuned encoder's own head; embeddings are what that reads."""
        train = self._data.train
        tuner = FineTuner(self._encoder, self._settings, "text", int(train.labels.max()) + 1)
        examples = tokenize_texts(tuner, [[query] for query in train.queries], train.labels.tolist())
        classifier = tuner.model(examples.features, seed)

        def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return classifier(input_ids=ids, attention_mask=mask).logits

        queries = [*self._data.test.queries, *self._data.oos_test]
        logits = outputs(classifier, forward, self._encoder, queries, **self._batches())
        reads_mean = getattr(classifier.config, "classifier_pooling", "cls") == "mean"  # ModernBERT has it
        body = classifier.base_model
        assert isinstance(body, PreTrainedModel)
        vectors = self._embeddings(body, Pooling.MEAN if reads_mean else Pooling.FIRST)
        return self._measured(vectors, LinearHead.fit(vectors["train"], train.labels), logits)

    def _embeddings(self, model: PreTrainedModel, pooling: Pooling) -> dict[str, FloatArray]:
        data = self._data
        queries = {
            "train": data.train.queries,
            "val": data.val.queries,
            "test": data.test.queries,
            "oos_train": data.oos_train,
            "oos_test": data.oos_test,
        }
        return {
            name: embed(model, self._encoder, split, pooling=pooling, **self._batches())
            for name, split in queries.items()
        }

    def _measured(self, vectors: dict[str, FloatArray], head: LinearHead, logits: FloatArray) -> Measured:
        """What all scores come to.

        Args:
            vectors: embeddings of every split.
            head: a linear classifier of the training embeddings.
            logits: the classifier's, of the test queries in scope and then of those out of scope.
        """
        train, labels, num_inside = vectors["train"], self._data.train.labels, len(vectors["test"])
        scores = {
            "max_softmax": max_softmax(logits),
            "energy": energy(logits),
            **distance_scores(train, labels, _scored(vectors)),
        }
        to_score = vectors["test"], vectors["oos_test"]
        exposure = Exposure(train, labels, head)
        return {
            "accuracy": float((logits[:num_inside].argmax(1) == self._data.test.labels).mean()),
            "num_train": len(train),
            "num_inside": num_inside,
            "num_outside": len(vectors["oos_test"]),
            "num_dimensions": train.shape[1],
            "scores": {
                name: detection(values[:num_inside], values[num_inside:]) for name, values in scores.items()
            },
            "exposure": exposure.auroc_by_shots(vectors["oos_train"], *to_score),
            "control": exposure.auroc_by_shots(vectors["val"], *to_score),
        }

    def _batches(self) -> dict[str, Any]:
        return {"batch_size": self._settings.batch_size, "max_length": self._settings.max_length}


def _scored(vectors: dict[str, FloatArray]) -> FloatArray:
    """Test queries in scope, then those out of scope."""
    return np.concatenate([vectors["test"], vectors["oos_test"]])


def _sources(settings: Settings) -> dict[str, Sequence[Path]]:
    assert settings.data is not None
    return {"queries": [find_intent_file(settings.data)]}


TASK = Task(
    data="CLINC150's data_full.json, or the directory it lies in",
    begin=OutOfDistribution,
    sources=_sources,
    defaults={"seeds": 3, "epochs": 5.0, "learning_rate": 5e-5, "batch_size": 32, "max_length": 128},
    optional=["limit", "only"],
)
