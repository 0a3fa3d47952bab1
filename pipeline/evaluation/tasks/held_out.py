"""Task held_out: the metrics of a run's objective on held-out rows, with draws that never change.

Of masked language modelling that is loss, perplexity and accuracy, and beside them what a model would lose
that knows only how often each token occurs; of replaced-token detection, loss and accuracy of the
discriminator, the loss of the best constant prediction, and the generator's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.schema import DEFAULT_OBJECTIVE
from pipeline.data.batches import rows_evaluated
from pipeline.errors import UsageError
from pipeline.evaluation.baseline import held_out_baseline
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.held_out import evaluate_held_out
from pipeline.evaluation.task import Measured, Settings, Summary, Task
from pipeline.objectives import load_objective
from pipeline.processes.cluster import Cluster

_UNIT = "held-out"


class HeldOut:
    """The task begun on a run."""

    units: Sequence[str] = (_UNIT,)

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Only a run knows its corpus."""
        if encoder.run is None:
            raise UsageError(
                f"{encoder.path} is no run: task 'held_out' reads held-out rows of the corpus that a run was "
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
            "objective": recipe.objective.kind,
            **measured,
            **{f"unigram_{name}": value for name, value in baseline.items()},
        }

    def summarize(self, measured: Mapping[str, Measured]) -> Summary:
        """A line a figure."""
        found: dict[str, Any] = measured[_UNIT]
        objective = load_objective(found.get("objective", DEFAULT_OBJECTIVE))
        known = {metric.name: metric.unit for metric in objective.metrics}
        known |= {f"unigram_{name}": f"{unit}, of a unigram model" for name, unit in known.items()}
        numbers = {name: found[name] for name in known if name in found}
        rows: list[list[str | float | None]] = [
            [name.replace("_", " "), value, known[name]] for name, value in numbers.items()
        ]
        notes = [
            f"  {field.removesuffix('guidance_mass').replace('_', ' ')}attention on {name!r}, layer 0 up: "
            + " ".join("-" if share is None else f"{share:.2f}" for share in mass)
            for field, masses in found.items()
            if field.endswith("guidance_mass")
            for name, mass in masses.items()
        ]
        return Summary(numbers, ["figure", "value", "unit"], [*rows, ["rows", found["rows"], ""]], notes)


TASK = Task(
    data=None,
    begin=HeldOut,
    optional=["limit"],
)
