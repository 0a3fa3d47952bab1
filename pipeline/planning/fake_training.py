"""A recipe's training module and micro-batches without memory, for dry steps.

The only file of planning that knows how a micro-batch is put together and how a module is called.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from data_prep.format import Manifest
from pipeline.build import with_guidance
from pipeline.config.schema import Recipe
from pipeline.data.batches import Batch
from pipeline.data.corpus import CorpusRows
from pipeline.data.documents import Documents
from pipeline.data.draws import RowKeys
from pipeline.engine import total_loss
from pipeline.objectives import load_objective
from pipeline.objectives.protocol import Facts
from pipeline.planning.dry_step import DryStep, dry_step, without_memory
from pipeline.planning.live_bytes import no_workspace
from pipeline.planning.workspaces import workspace_on_cpu

_STEP = 0  # all guided layers count in it, unless the recipe never lets them
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FakeTraining:
    """Takes steps of a run without memory."""

    def __init__(
        self, recipe: Recipe, facts: Facts, lengths: Sequence[tuple[int, int]], *, on_cuda: bool
    ) -> None:
        """Build the module that the recipe trains, for CUDA or CPU; see `with_guidance` for `lengths`."""
        self._recipe, self._vocabulary, self._on_cuda = recipe, facts.vocabulary, on_cuda
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        kind = load_objective(recipe.objective.kind)
        # Not initialized: some families look at their values for that.
        with without_memory(self._mode, on_cuda=on_cuda), no_init_weights():
            objective: Any = kind.build(recipe, replace(facts, with_weights=False))
            for network in objective.networks.values():
                network.tie_weights()  # which belongs to initializing
                network.config.use_cache = False  # or transformers says that it cannot be had
                if recipe.train.activation_checkpointing:
                    # The state of random numbers is the device's, and takes no memory of it.
                    settings = {"use_reentrant": False, "preserve_rng_state": False}
                    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
            _convert(objective, _TYPES[recipe.train.precision])
        self.module = with_guidance(recipe, objective, lengths, None).train()

    def steps(self, rows: int, manifest: Manifest) -> tuple[DryStep, DryStep]:
        """A micro-batch's two passes by the objective alone, and in the run's first step, which has most.

        Args:
            rows: of the micro-batch.
            manifest: of their corpus.
        """
        batch = self._batch(rows, manifest)
        self.module.prepare(batch, _STEP)
        on_device = _as_fake(self._mode, batch)

        def run_alone() -> torch.Tensor:
            self.module.rest()
            return total_loss(self.module.objective(on_device, _STEP), batch.counts)

        def run_whole() -> torch.Tensor:
            return total_loss(self.module(on_device, _STEP, batch.counts), batch.counts)

        plain = self._step(run_alone)
        return plain, plain if self._recipe.guidance.acts_by is None else self._step(run_whole)

    def _step(self, run_forward: Callable[[], torch.Tensor]) -> DryStep:
        with without_memory(self._mode, on_cuda=self._on_cuda):
            return dry_step(self.module, run_forward, no_workspace if self._on_cuda else workspace_on_cpu)

    def _batch(self, rows: int, manifest: Manifest) -> Batch:
        """Real, in host memory: rows of one document each, drawn for as in training."""
        length, split = manifest.sequence_length, manifest.splits["train"]
        lengths = np.full(rows, length, dtype=np.int64)
        documents = Documents.one_per_row(torch.from_numpy(lengths), length)
        ids = np.resize(self._vocabulary.ordinary_ids(), (rows, length))
        found = CorpusRows(ids, lengths, documents.starts.numpy(), documents.ends.numpy())
        draw = load_objective(self._recipe.objective.kind).draw(self._recipe.objective, self._vocabulary)
        drawn = draw(found, RowKeys(self._recipe.seed, 0, np.arange(rows)))
        columns = {"input_ids": ids, **drawn.columns}
        return Batch(
            columns={name: torch.from_numpy(values) for name, values in columns.items()},
            counts={"tokens": float(ids.size), "positions": float(ids.size), **drawn.counts},
            lengths=torch.from_numpy(lengths),
            documents=documents,
            full=split.tokens == split.rows * length,
            borders=None if self._recipe.data.attend_across_documents else documents.borders(),
        )


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """As `module.to(dtype)`, which cannot do it with fake tensors; what is shared stays so."""
    converted: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = converted.setdefault(
                    id(parameter), nn.Parameter(parameter.detach().to(dtype))
                )
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                part._buffers[name] = buffer.to(dtype)


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
