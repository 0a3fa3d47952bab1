"""What DeepSpeed trains: objective and guidance in one module, and the engine around it."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.config.deepspeed_json import zero_stage
from pipeline.config.schema import Recipe
from pipeline.data.batches import BatchGeometry, MicroBatch
from pipeline.data.documents import Documents
from pipeline.encoder.attention import install_taps
from pipeline.encoder.attention_scope import attention_within_documents
from pipeline.guidance.guide import AttentionGuide, GuidanceTerms
from pipeline.guidance.schedule import GuidedStep
from pipeline.guidance.targets import Targets
from pipeline.objectives import OBJECTIVES
from pipeline.optimizers.lamb import Lamb
from pipeline.optimizers.make import optimizer_maker
from pipeline.optimizers.pieces import find_layouts


class PretrainingModule(nn.Module):
    """Model, objective and guide: one forward pass gives the sums a step needs."""

    def __init__(self, model: PreTrainedModel, objective: str, guide: AttentionGuide) -> None:
        """`objective` names one of OBJECTIVES."""
        super().__init__()
        self.objective = OBJECTIVES[objective](model)
        self.guide = guide
        install_taps(model, guide.taps)

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model inside."""
        return self.objective.model

    def forward(
        self,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        positions: torch.Tensor,
        labels: torch.Tensor,
        guided: GuidedStep,
        targets: Targets | None,
        documents: Documents | None = None,
        borders: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Score a micro-batch (see MicroBatch); see AttentionGuide.watch for `guided` and `targets`.

        With `documents` and `borders` attention stays inside documents, whatever `attention_mask` says.

        Returns:
            The objective, summed and by row, and the number of right guesses (see the objective); and the
            guidance terms: errors, mass and rows, each (looked-at layers, heads).
        """
        self.guide.watch(guided, targets, self.training)
        inputs: dict[str, Any] = {"attention_mask": attention_mask}
        if documents is not None and borders is not None:
            inputs = attention_within_documents(
                self.model, documents, borders, has_bias=guided.bias != 0.0, training=self.training
            )
        total, losses, correct = self.objective(
            input_ids=input_ids, positions=positions, labels=labels, **inputs
        )
        terms = self.guide.collect(input_ids.device)
        return total, losses, correct, terms.errors, terms.mass, terms.rows


def forward(
    module: nn.Module, batch: MicroBatch, guided: GuidedStep, targets: Targets | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, GuidanceTerms]:
    """Run a PretrainingModule, bare or inside an engine, on a micro-batch that is on its device.

    Returns:
        The objective's sum, differentiable, and its sums by row, (B,) float32, which are not; the number of
        right guesses; guidance terms.
    """
    total, losses, correct, *terms = module(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask(),
        positions=batch.positions,
        labels=batch.labels,
        guided=guided,
        targets=targets,
        documents=None if batch.borders is None else batch.documents,
        borders=batch.borders,
    )
    return total, losses, correct, GuidanceTerms(*terms)


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
        module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
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
