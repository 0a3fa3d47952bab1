"""An objective's metrics on the held-out rows, with draws that never change."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.accounting.metrics import WindowSums, values_of
from pipeline.data.batches import RowBatcher, evaluation_batches
from pipeline.engine import PretrainingModule
from pipeline.guidance.timer import CLOCK
from pipeline.objectives.protocol import Metric
from pipeline.processes.cluster import Cluster


@torch.no_grad()
def evaluate_held_out(
    engine: Any,
    module: PretrainingModule,
    metrics: Sequence[Metric],
    batcher: RowBatcher,
    rows: tuple[int | None, int],
    cluster: Cluster,
) -> dict[str, Any]:
    """The metrics of the held-out rows, and what the regularizers measure, such as attention on target.

    The networks are evaluated as they would be exported: without dropout and without a bias on scores.

    Args:
        engine: what is called: the module, or an engine around it. All processes must call this.
        module: the module.
        metrics: of its objective.
        batcher: reads rows of the "valid" split.
        rows: how many of them (None: all), and how many per process and forward pass.
        cluster: the processes; they share the rows.
    """
    started = time.monotonic()
    was_training = engine.training
    engine.eval()
    sums, (max_rows, batch_size) = WindowSums(cluster.device), rows
    for batch in evaluation_batches(batcher, max_rows, batch_size, cluster.rank, cluster.world_size):
        module.prepare(batch, None)
        scored = engine(batch.to(cluster.device), None, {})
        sums.add({**batch.counts, **scored.sums})
    engine.train(was_training)
    CLOCK.take()
    totals = sums.take(cluster)
    line: dict[str, Any] = values_of(metrics, totals, held_out=True)
    for regularizer in module.regularizers:
        line |= regularizer.line(None, totals)
    return line | {"seconds": time.monotonic() - started}
