"""The loss of a model that knows only how often each token occurs: what a real model must beat."""

import numpy as np
import numpy.typing as npt

from pipeline.data.batches import RowBatcher, evaluation_batches
from pipeline.data.corpus import Vocabulary
from pipeline.data.masking import IGNORED_LABEL


def unigram_loss(
    train_counts: npt.NDArray[np.int64], ordinary_ids: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> float:
    """Mean cross-entropy in nats of `labels` under the training text's token frequencies, add-one smoothed.

    Args:
        train_counts: occurrences of each id in the training rows, (V,).
        ordinary_ids: the ids that can be predicted.
        labels: the tokens to predict, any shape; IGNORED_LABEL is left out.
    """
    smoothed = np.zeros(len(train_counts))
    smoothed[ordinary_ids] = train_counts[ordinary_ids] + 1.0
    targets = labels[labels != IGNORED_LABEL]
    return float(-np.log(smoothed[targets] / smoothed.sum()).mean())


def held_out_unigram_loss(
    train: RowBatcher,
    valid: RowBatcher,
    vocabulary: Vocabulary,
    max_rows: int | None,
    train_rows: int | None,
) -> dict[str, float]:
    """The unigram model's loss on the tokens that held-out evaluation predicts; see Objective.baseline."""
    counts = train.split.token_counts(vocabulary.size, train_rows)
    labels = held_out_labels(valid, max_rows)
    return {"loss": unigram_loss(counts, vocabulary.ordinary_ids(), labels)}


def held_out_labels(batcher: RowBatcher, max_rows: int | None) -> npt.NDArray[np.int64]:
    """The tokens that held-out evaluation predicts, flat."""
    batches = evaluation_batches(batcher, max_rows, batch_size=256, rank=0, world_size=1)
    return np.concatenate([batch.columns["labels"].numpy().ravel() for batch in batches])
