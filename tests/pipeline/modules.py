"""Tiny models with an objective and guidance, batches for them, and single forward passes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from pipeline.data.batches import Batch
from pipeline.data.documents import Documents
from pipeline.data.masking import IGNORED_LABEL
from pipeline.encoder.attention import install_taps
from pipeline.engine import PretrainingModule
from pipeline.guidance.allocation import allocate
from pipeline.guidance.formation import Formation
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.schedule import GuidedStep
from pipeline.objectives.mlm.module import MaskedLanguageModeling
from pipeline.objectives.protocol import Scored
from tests.pipeline.guidance.cases import schedule_of


class GuidanceAsTold(RunGuidance):
    """Guidance whose steps do what a test says, and whose loss is the sum of all errors."""

    guided = GuidedStep()

    def at(self, step: int | None) -> GuidedStep:
        return self.guided


def sum_of_errors(_guided: GuidedStep, errors: torch.Tensor, _valid_rows: torch.Tensor) -> torch.Tensor:
    return errors.sum()


def guided_module(
    model: PreTrainedModel,
    heads: list[dict[str, int]],
    token_ids: dict[str, Sequence[int]] | None = None,
) -> PretrainingModule:
    """Masked language modelling of a model whose layers have these guided heads."""
    guide = AttentionGuide(allocate(heads, token_ids or {}))
    schedule = schedule_of(dense_steps=0)
    guidance = GuidanceAsTold(model, guide, schedule, sum_of_errors, Formation(schedule, 0.5))
    install_taps(model, [[tap] for tap in guide.taps])
    return PretrainingModule(MaskedLanguageModeling(model), [guidance])


def guide_of(module: PretrainingModule) -> AttentionGuide:
    """That of the module's only guidance."""
    (guidance,) = module.regularizers
    return guidance.guide


def batch_of_rows(
    ids: torch.Tensor,
    lengths: torch.Tensor,
    positions: torch.Tensor,
    labels: torch.Tensor,
    documents: Documents | None = None,
    borders: torch.Tensor | None = None,
) -> Batch:
    """Rows of which nothing is hidden: their replacements are what stands there."""
    documents = Documents.one_per_row(lengths, ids.shape[1]) if documents is None else documents
    columns = {"input_ids": ids, "positions": positions, "labels": labels}
    return Batch(
        columns={**columns, "replacements": ids.gather(1, positions)},
        counts={
            "tokens": float(lengths.sum()),
            "positions": float(ids.numel()),
            "predicted": float((labels != IGNORED_LABEL).sum()),
        },
        lengths=lengths,
        documents=documents,
        full=bool((lengths == ids.shape[1]).all()),
        borders=borders,
    )


def score(
    module: PretrainingModule, batch: Batch, guided: GuidedStep | None = None, step: int | None = 0
) -> Scored:
    """Of a batch that is all there is, prepared on a copy; it may be moved to the module's device."""
    (guidance,) = module.regularizers
    guidance.guided = guided or GuidedStep()
    batch = replace(batch, columns=dict(batch.columns), counts=dict(batch.counts))
    module.prepare(batch, step)
    device = next(module.parameters()).device
    return module(batch if device.type == "cpu" else batch.to(device), step, batch.counts)


def sums_by_head(scored: Scored) -> torch.Tensor:
    """Errors, mass and rows of guidance, (3, layers, heads)."""
    (name,) = (name for name in scored.sums if name.startswith("guidance by head"))
    return scored.sums[name]
