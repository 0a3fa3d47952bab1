"""What a model gets on the held-out rows that knows nothing of context: what a real one must beat."""

from pipeline.build import Corpus
from pipeline.config.schema import Recipe
from pipeline.objectives import load_objective

SAMPLE_ROWS = 4096  # training rows that tell token frequencies well enough; a corpus may have billions


def held_out_baseline(
    recipe: Recipe, corpus: Corpus, max_rows: int | None, train_rows: int | None = None
) -> dict[str, float]:
    """Metric -> its value; empty for an objective without such a model.

    Args:
        recipe: says what is learned.
        corpus: its corpus.
        max_rows: held-out rows used; None for all.
        train_rows: training rows that may be counted; None for all.
    """
    train, valid = corpus.batcher(recipe, "train"), corpus.batcher(recipe, "valid")
    objective = load_objective(recipe.objective.kind)
    return objective.baseline(train, valid, corpus.vocabulary, max_rows, train_rows)
