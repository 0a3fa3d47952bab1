"""The `evaluate` command: held-out loss and perplexity of a run beside a unigram model's."""

from typing import Any

from data_prep.files import write_json_atomically
from pipeline.accounting.metrics import finite
from pipeline.data.batches import rows_evaluated
from pipeline.evaluation.held_out import evaluate_held_out
from pipeline.evaluation.unigram import held_out_unigram_loss
from pipeline.processes.cluster import Cluster
from pipeline.weights import TrainedRun, load_trained_run


def evaluate_run(path: str, max_rows: int | None) -> dict[str, Any]:
    """Evaluate the newest good checkpoint of a run, print a table and write RUN/evaluation.json.

    Args:
        path: run directory.
        max_rows: held-out rows used; None for all.
    """
    cluster = Cluster.single()
    trained = load_trained_run(path, cluster.device)
    result = {"step": trained.step, **_measure(trained, cluster, max_rows)}
    write_json_atomically(trained.run.evaluation_file, finite(result))
    print(_table(path, result))
    return result


def _measure(trained: TrainedRun, cluster: Cluster, max_rows: int | None) -> dict[str, Any]:
    recipe, corpus = trained.recipe, trained.corpus
    batcher = corpus.batcher(recipe, "valid")
    measured = evaluate_held_out(
        trained.module,
        trained.module.guide,
        batcher,
        max_rows,
        recipe.train.micro_batch_size,
        cluster,
    )
    unigram = held_out_unigram_loss(recipe, corpus, max_rows)
    return {"rows": rows_evaluated(batcher.split.num_rows, max_rows), **measured, "unigram_loss": unigram}


def _table(path: str, result: dict[str, Any]) -> str:
    lines = [
        f"{path}, step {result['step']}, {result['rows']} held-out rows",
        f"  held-out loss     {result['loss']:.4f} nats per masked token",
        f"  perplexity        {result['perplexity']:.2f}",
        f"  accuracy          {result['accuracy']:.2%} of the masked tokens",
        f"  unigram model     {result['unigram_loss']:.4f} nats on the same tokens",
    ]
    for name, mass in result["guidance_mass"].items():
        layers = " ".join("-" if share is None else f"{share:.2f}" for share in mass)
        lines.append(f"  attention on {name!r}, layer 0 up: {layers}")
    return "\n".join(lines)
