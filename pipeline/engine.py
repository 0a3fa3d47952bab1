"""What DeepSpeed trains: objective and regularizers in one module, and the engine around it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.config.deepspeed_json import zero_stage
from pipeline.config.schema import Recipe
from pipeline.data.batches import Batch, BatchGeometry
from pipeline.objectives.protocol import ObjectiveModule, Regularizer, Score, Scored
from pipeline.optimizers.lamb import Lamb
from pipeline.optimizers.make import optimizer_maker
from pipeline.optimizers.pieces import find_layouts

COUNTED_BY_STEPS = ("flops", "steps", "skipped_steps")  # names of sums beside an objective's own


class PretrainingModule(nn.Module):
    """An objective with its regularizers around it: one forward pass gives the sums a step needs.

    Attributes:
        objective: the networks and what they learn.
        regularizers: the last one is the outermost.
    """

    def __init__(self, objective: ObjectiveModule, regularizers: Sequence[Regularizer] = ()) -> None:
        """Taps in the networks are the caller's to install."""
        super().__init__()
        self.objective = objective
        self.regularizers = list(regularizers)

    @property
    def networks(self) -> dict[str, PreTrainedModel]:
        """By name."""
        return self.objective.networks

    @property
    def model(self) -> PreTrainedModel:
        """The network that is evaluated."""
        network, _ = next(iter(self.objective.exports().values()))
        return self.networks[network]

    def prepare(self, batch: Batch, step: int | None) -> None:
        """Complete a batch in host memory; its counts are known then."""
        for regularizer in self.regularizers:
            regularizer.prepare(batch, step)

    def rest(self) -> None:
        """Let the regularizers do nothing in forward passes of a single network, until the next batch."""
        for regularizer in self.regularizers:
            regularizer.rest()

    def forward(self, batch: Batch, step: int | None, totals: Mapping[str, float]) -> Scored:
        """Score a batch.

        Args:
            batch: prepared, on the module's device.
            step: number of steps taken before; None in an evaluation.
            totals: the counts of the global batch.
        """
        score: Score = self.objective
        for regularizer in self.regularizers:
            score = partial(regularizer.around, score, totals=totals)
        scored = score(batch, step)
        shared = scored.sums.keys() & {*batch.counts, *COUNTED_BY_STEPS}
        assert not shared, f"sums of one name would be added up: {shared}"
        return scored


def total_loss(scored: Scored, totals: Mapping[str, float]) -> torch.Tensor:
    """This batch's part of the loss of the global batch, whose counts are `totals`."""
    loss: torch.Tensor | None = None
    for term in scored.terms.values():
        part = term.sum if term.per is None else term.sum / totals[term.per]
        part = part if term.weight == 1.0 else term.weight * part
        loss = part if loss is None else loss + part
    assert loss is not None  # an objective has a term
    return loss


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and embeddings decay; biases and norm weights (fewer than two dimensions) do not."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def start_engine(module: PretrainingModule, recipe: Recipe, config: dict[str, Any]) -> Any:
    """The DeepSpeed engine for a resolved configuration; the process group must be joined."""
    import deepspeed

    if recipe.train.activation_checkpointing:
        # Reentrant checkpointing under ZeRO-3 trains wrongly when a module runs twice, without a word.
        for network in module.networks.values():
            network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    groups = parameter_groups(module, recipe.optimizer.weight_decay)
    parameters = [group["params"] for group in groups]  # ZeRO puts its flat tensors in their place
    optimizer = optimizer_maker(config)
    if zero_stage(config) == 0:
        config = {**config, "gradient_clipping": 0.0}  # the optimizer does it
    engine, *_ = deepspeed.initialize(
        model=module, model_parameters=groups, optimizer=optimizer, config=config
    )
    if isinstance(engine.basic_optimizer, Lamb) and zero_stage(config) > 0:
        engine.basic_optimizer.set_layouts(find_layouts(engine.optimizer, parameters))
    if (scaler := getattr(engine.optimizer, "loss_scaler", None)) is not None:
        # At the smallest scale a step is bad like any other, rather than the end with a traceback. A
        # checkpoint holds the scaler, and with it this.
        scaler.raise_error_at_min_scale = False
    return engine


def can_scale_loss_less(engine: Any) -> bool:
    """Whether a step that was not taken only means that the scale of an fp16 loss was too large."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if scaler is None or not scaler.dynamic:
        return False
    return scaler.cur_scale > scaler.min_scale


def set_batch(engine: Any, geometry: BatchGeometry) -> None:
    """Make the steps from now on of other micro-batches; to be called between two steps.

    The engine steps when its count of micro-steps is a multiple of their number per step, so the count must
    begin anew: what it is, is no multiple of another number.
    """
    engine.set_train_micro_batch_size(geometry.micro_batch_size)
    engine.set_train_batch_size(geometry.global_batch_size)
    engine.micro_steps = 0


def pass_over_step(engine: Any) -> None:
    """Count a step that is not taken, so that the engine's numbers stay those of the run."""
    engine.global_steps += 1
    engine.global_samples += engine.train_batch_size()
    engine.micro_steps += engine.gradient_accumulation_steps()
    engine.skipped_steps += 1
    engine._global_grad_norm = None  # there was no gradient
