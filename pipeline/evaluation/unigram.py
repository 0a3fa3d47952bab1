"""The loss of a model that knows only how often each token occurs: what a real model must beat."""

import numpy as np
import numpy.typing as npt

from pipeline.build import Corpus
from pipeline.config.schema import Recipe
from pipeline.data.batches import RowBatcher, evaluation_batches
from pipeline.data.masking import IGNORED_LABEL

SAMPLE_ROWS = 4096  # training rows that tell token frequencies well enough; a corpus may have billions


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
    recipe: Recipe, corpus: Corpus, max_rows: int | None, train_rows: int | None = None
) -> float:
    """The unigram model's loss on the tokens that held-out evaluation predicts.

    Args:
        recipe: says how they are masked.
        corpus: its corpus.
        max_rows: held-out rows used; None for all.
        train_rows: training rows whose tokens are counted; None for all.
    """
    counts = corpus.batcher(recipe, "train").split.token_counts(corpus.vocabulary.size, train_rows)
    labels = held_out_labels(corpus.batcher(recipe, "valid"), max_rows)
    return unigram_loss(counts, corpus.vocabulary.ordinary_ids(), labels)


def held_out_labels(batcher: RowBatcher, max_rows: int | None) -> npt.NDArray[np.int64]:
    """The tokens that held-out evaluation predicts, flat."""
    batches = evaluation_batches(batcher, max_rows, batch_size=256, rank=0, world_size=1)
    return np.concatenate([batch.labels.numpy().ravel() for batch in batches])
