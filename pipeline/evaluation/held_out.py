"""Loss on the held-out rows, with masks that never change."""

import math
import time
from typing import Any

import torch
from torch import nn

from pipeline.data.batches import RowBatcher, evaluation_batches
from pipeline.distributed import Cluster
from pipeline.engine import forward
from pipeline.guidance.guide import AttentionGuide
from pipeline.metrics import WindowSums


@torch.no_grad()
def evaluate_held_out(
    module: nn.Module,
    guide: AttentionGuide,
    num_layers: int,
    batcher: RowBatcher,
    max_rows: int | None,
    batch_size: int,
    cluster: Cluster,
) -> dict[str, Any]:
    """Mean loss, perplexity and accuracy on the held-out rows; attention mass on the patterns in all layers.

    Args:
        module: a PretrainingModule, bare or inside an engine. All processes must call this.
        guide: its guide.
        num_layers: of the model.
        batcher: reads and masks rows of the "valid" split.
        max_rows: how many of them; None for all.
        batch_size: rows per process and forward pass.
        cluster: the processes; they share the rows.
    """
    started = time.monotonic()
    was_training = module.training
    module.eval()
    layers = tuple(range(num_layers)) if guide.groups else ()
    sums = WindowSums(num_layers, guide.num_heads, cluster.device)
    for batch in evaluation_batches(batcher, max_rows, batch_size, cluster.rank, cluster.world_size):
        valid = guide.count_valid(batch.lengths)
        tokens, predicted = int(batch.lengths.sum()), batch.num_predictions
        loss, correct, errors, mass = forward(module, batch.to(cluster.device), layers)
        sums.add(loss=loss, correct=correct, predicted=predicted, tokens=tokens, steps=1)
        if layers:
            sums.add_guidance(layers, errors, mass, valid.to(cluster.device))
    module.train(was_training)
    guide.timer.take()
    totals = sums.take(cluster, guide.groups)
    return {
        "loss": totals["loss"],
        "perplexity": math.exp(min(totals["loss"], 700.0)),
        "accuracy": totals["accuracy"],
        "guidance_error": totals["guidance_error"],
        "guidance_mass": totals["guidance_mass"],
        "seconds": time.monotonic() - started,
    }
