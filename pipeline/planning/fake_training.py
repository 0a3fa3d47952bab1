"""A recipe's training module and micro-batches without memory, for dry steps.

The only file of planning that knows how a micro-batch is put together and how a module is called.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from data_prep.format import Manifest
from pipeline.config.schema import Recipe
from pipeline.data.batches import MicroBatch
from pipeline.data.documents import Documents
from pipeline.engine import PretrainingModule, forward
from pipeline.guidance.allocation import Allocation
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.schedule import GuidedStep
from pipeline.planning.dry_step import DryStep, dry_step, without_memory
from pipeline.planning.live_bytes import no_workspace
from pipeline.planning.workspaces import workspace_on_cpu

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FakeTraining:
    """Takes steps of a run without memory."""

    def __init__(
        self, recipe: Recipe, config: PretrainedConfig, allocation: Allocation, *, on_cuda: bool
    ) -> None:
        """Build the module that the recipe trains, for CUDA or CPU."""
        self._recipe = recipe
        self._on_cuda = on_cuda
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._guide = AttentionGuide(allocation, as_published=recipe.guidance.normalization == "authors")
        with without_memory(self._mode, on_cuda=on_cuda):
            model = _without_values(config, _TYPES[recipe.train.precision])
            model.config.use_cache = False  # or transformers says that it cannot be had
            if recipe.train.activation_checkpointing:
                # The state of random numbers is the device's, and takes no memory of it.
                settings = {"use_reentrant": False, "preserve_rng_state": False}
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
            self.module = PretrainingModule(model, recipe.objective.kind, self._guide).train()

    def steps(self, rows: int, manifest: Manifest) -> tuple[DryStep, DryStep]:
        """A micro-batch's two passes without guidance, and with as much of it as any step has.

        Args:
            rows: of the micro-batch.
            manifest: of their corpus.
        """
        batch, most = self._batch(rows, manifest), self._most_guidance()
        plain = self._step(batch, GuidedStep())
        return plain, plain if most == GuidedStep() else self._step(batch, most)

    def _step(self, batch: MicroBatch, guided: GuidedStep) -> DryStep:
        targets = None
        if guided != GuidedStep():
            targets = self._guide.targets(batch.input_ids, batch.documents)
        batch, targets = _as_fake(self._mode, batch), _as_fake(self._mode, targets)

        def run_forward() -> torch.Tensor:
            total, _, _, terms = forward(self.module, batch, guided, targets)
            return total + terms.errors.sum()

        with without_memory(self._mode, on_cuda=self._on_cuda):
            return dry_step(self.module, run_forward, no_workspace if self._on_cuda else workspace_on_cpu)

    def _most_guidance(self) -> GuidedStep:
        guidance = self._recipe.guidance
        if guidance.acts_by == "bias":
            return GuidedStep(bias=guidance.bias)
        return GuidedStep.looking_at(self._guide.allocation.guided_layers if self._recipe.guided else ())

    def _batch(self, rows: int, manifest: Manifest) -> MicroBatch:
        """Real, in host memory: of rows of one document each."""
        length, split = manifest.sequence_length, manifest.splits["train"]
        lengths = torch.full((rows,), length)
        documents = Documents.one_per_row(lengths, length)
        chosen = torch.arange(max(1, round(self._recipe.objective.mask_rate * length))).repeat(rows, 1)
        return MicroBatch(
            input_ids=torch.zeros(rows, length, dtype=torch.int64),
            lengths=lengths,
            documents=documents,
            positions=chosen,
            labels=torch.zeros_like(chosen),
            full=split.tokens == split.rows * length,
            borders=None if self._recipe.data.attend_across_documents else documents.borders(),
        )


def _without_values(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A model that is not initialized: some families look at their values for that."""
    with no_init_weights():
        model = AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    model.tie_weights()
    return model


def _as_fake(mode: FakeTensorMode, value: Any) -> Any:
    """The same with fake tensors."""
    if isinstance(value, torch.Tensor):
        return mode.from_tensor(value)
    if isinstance(value, dict):
        return {key: _as_fake(mode, entry) for key, entry in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _as_fake(mode, getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changed)
    return value
