"""Task mlm: loss, perplexity and accuracy on held-out rows of the run's corpus, with masks that never change.

Beside them stands what a model would lose that knows only how often each token occurs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.data.batches import rows_evaluated
from pipeline.errors import UsageError
from pipeline.evaluation.baseline import held_out_baseline
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.held_out import evaluate_held_out
from pipeline.evaluation.task import Measured, Settings, Summary, Task
from pipeline.processes.cluster import Cluster

_UNIT = "held-out"


class HeldOut:
    """The task begun on a run."""

    units: Sequence[str] = (_UNIT,)

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Only a run knows its corpus."""
        if encoder.run is None:
            raise UsageError(
                f"{encoder.path} is no run: task 'mlm' reads held-out rows of the corpus that a run was "
                "trained on; name a run_dir"
            )
        self._encoder, self._max_rows = encoder, settings.limit

    def measure(self, _unit: str) -> Measured:
        """Of the checkpoint, as it would be exported."""
        cluster = Cluster.single()
        trained = self._encoder.load_run(cluster.device)
        recipe, corpus, module = trained.recipe, trained.corpus, trained.module
        batcher = corpus.batcher(recipe, "valid")
        rows = self._max_rows, recipe.train.micro_batch_size
        measured = evaluate_held_out(module, module, trained.objective.metrics, batcher, rows, cluster)
        baseline = held_out_baseline(recipe, corpus, self._max_rows)
        return {
            "rows": rows_evaluated(batcher.split.num_rows, self._max_rows),
            **measured,
            **{f"unigram_{name}": value for name, value in baseline.items()},
        }

    def summarize(self, measured: Mapping[str, Measured]) -> Summary:
        """A line a figure."""
        found: dict[str, Any] = measured[_UNIT]
        numbers = {name: found[name] for name in ("loss", "perplexity", "accuracy", "unigram_loss")}
        rows: list[list[str | float | None]] = [
            ["held-out loss", found["loss"], "nats per masked token"],
            ["perplexity", found["perplexity"], ""],
            ["accuracy", found["accuracy"], "share of the masked tokens"],
            ["unigram model", found["unigram_loss"], "nats on the same tokens"],
            ["rows", found["rows"], ""],
        ]
        notes = [
            f"  attention on {name!r}, layer 0 up: "
            + " ".join("-" if share is None else f"{share:.2f}" for share in mass)
            for name, mass in found["guidance_mass"].items()
        ]
        return Summary(numbers, ["figure", "value", "unit"], rows, notes)


TASK = Task(
    data=None,
    begin=HeldOut,
    optional=["limit"],
)
