"""Loss on the held-out rows, with masks that never change."""

import math
import time
from typing import Any

import torch
from torch import nn

from pipeline.accounting.metrics import WindowSums
from pipeline.data.batches import RowBatcher, evaluation_batches
from pipeline.engine import forward
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.schedule import GuidedStep
from pipeline.guidance.timer import CLOCK
from pipeline.processes.cluster import Cluster


@torch.no_grad()
def evaluate_held_out(
    module: nn.Module,
    guide: AttentionGuide,
    batcher: RowBatcher,
    max_rows: int | None,
    batch_size: int,
    cluster: Cluster,
) -> dict[str, Any]:
    """Mean loss, perplexity and accuracy on the held-out rows; attention mass on target of the guided heads.

    The model is looked at as it would be exported: without dropout and without a bias on its scores.

    Args:
        module: a PretrainingModule, bare or inside an engine. All processes must call this.
        guide: its guide.
        batcher: reads and masks rows of the "valid" split.
        max_rows: how many of them; None for all.
        batch_size: rows per process and forward pass.
        cluster: the processes; they share the rows.
    """
    started = time.monotonic()
    was_training = module.training
    module.eval()
    guided = GuidedStep.looking_at(guide.allocation.guided_layers)
    sums = WindowSums(guide.allocation, cluster.device)
    for batch in evaluation_batches(batcher, max_rows, batch_size, cluster.rank, cluster.world_size):
        targets = guide.targets(batch.original_ids(), batch.documents).to(cluster.device)
        tokens, predicted = int(batch.lengths.sum()), batch.num_predictions
        _, losses, correct, terms = forward(module, batch.to(cluster.device), guided, targets)
        sums.add(loss=losses.double().sum(), correct=correct, predicted=predicted, tokens=tokens, steps=1)
        sums.add_guidance(guided, terms)
    module.train(was_training)
    CLOCK.take()
    totals = sums.take(cluster)
    return {
        "loss": totals["loss"],
        "perplexity": math.exp(min(totals["loss"], 700.0)),
        "accuracy": totals["accuracy"],
        "guidance_error": totals["guidance_error"],
        "guidance_mass": totals["guidance_mass"],
        "seconds": time.monotonic() - started,
    }
