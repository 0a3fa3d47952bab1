"""Collects the guidance terms of a model's layers during a forward pass."""

from dataclasses import dataclass

import torch

from pipeline.data.documents import Documents
from pipeline.guidance.allocation import Allocation
from pipeline.guidance.bias import target_bias
from pipeline.guidance.row_terms import LossForm, row_terms
from pipeline.guidance.schedule import GuidedLayer, GuidedStep
from pipeline.guidance.targets import Targets, make_targets


@dataclass(frozen=True)
class GuidanceTerms:
    """Sums over the looked-at valid rows of a micro-batch, one line per looked-at layer, ascending.

    Heads of a layer that are not guided have zeros.

    Attributes:
        errors: row errors, (layers, heads), differentiable.
        mass: attention on target, (layers, heads).
        rows: rows summed over, (layers, heads).
    """

    errors: torch.Tensor
    mass: torch.Tensor
    rows: torch.Tensor


class AttentionGuide:
    """An attention tap that turns the query and key of the looked-at layers into guidance terms.

    Call `watch` before a forward pass and `collect` after it. Under activation checkpointing a layer is
    seen again during the backward pass, and must do the same work then; those terms are not kept.
    """

    def __init__(
        self, allocation: Allocation, form: LossForm | None = None, as_published: bool = False
    ) -> None:
        """Guide the heads of `allocation` by the error `form`; see Targets for `as_published`."""
        self.allocation = allocation
        self.form = form or LossForm()
        self.as_published = as_published
        self._heads = [allocation.pattern_of_head(layer) for layer in range(len(allocation.layers))]
        self._indices: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._watched: dict[int, GuidedLayer] = {}
        self._step = GuidedStep()
        self._targets: Targets | None = None
        self._training = False
        self._seen: dict[int, tuple[torch.Tensor, ...]] = {}
        self._collecting = False

    def targets(self, token_ids: torch.Tensor, documents: Documents) -> Targets:
        """Targets of a micro-batch of uncorrupted tokens (B, N)."""
        return make_targets(self.allocation.patterns, token_ids, documents, self.as_published)

    def watch(self, guided: GuidedStep, targets: Targets | None, training: bool) -> None:
        """Begin a forward pass.

        Args:
            guided: the layers and rows to look at; with none, and no bias, nothing is done.
            targets: of the micro-batch, on the model's device; may be None when nothing is done.
            training: whether attention dropout is on, which the authors' loss takes into account.
        """
        self._step, self._targets, self._training = guided, targets, training
        self._watched = {layer.layer: layer for layer in guided.layers}
        self._seen = {}
        self._collecting = True

    def observe(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, scaling: float, mask: torch.Tensor | None
    ) -> None:
        """See AttentionTap."""
        if layer not in self._watched or self._targets is None:
            return
        heads, first_row, stride = self._heads[layer], self._watched[layer].first_row, self._step.row_stride
        errors, mass = row_terms(
            query[:, : len(heads)],
            key[:, : len(heads)],
            scaling,
            mask,
            self._targets,
            heads,
            self.form if self._training else LossForm(name=self.form.name),
            first_row,
            stride,
        )
        valid = self._targets.valid.index_select(0, self._pattern_index(layer, query.device))
        valid = valid[:, :, first_row::stride].transpose(0, 1)
        terms = (
            torch.where(valid, errors, 0.0).sum((0, 2)),
            torch.where(valid, mass, 0.0).sum((0, 2)),
            valid.sum((0, 2)).float(),
        )
        if self._collecting:
            self._seen[layer] = terms

    def _pattern_index(self, layer: int, device: torch.device) -> torch.Tensor:
        """Pattern of each guided head of a layer; kept on the device, or every step would wait for a copy."""
        key = layer, device
        if key not in self._indices:
            self._indices[key] = torch.tensor(self._heads[layer], device=device)
        return self._indices[key]

    def bias(self, layer: int, query: torch.Tensor) -> torch.Tensor | None:
        """See AttentionTap."""
        if self._step.bias == 0.0 or self._targets is None or not self._heads[layer]:
            return None
        return target_bias(self._targets, self._heads[layer], query, self._step.bias)

    def collect(self, device: torch.device) -> GuidanceTerms:
        """The terms of the looked-at layers; empty tensors when there was none."""
        seen, self._seen = self._seen, {}
        self._collecting = False
        num_heads = self.allocation.num_heads
        by_layer = [
            [torch.nn.functional.pad(values, (0, num_heads - len(values))) for values in seen[layer]]
            for layer in sorted(seen)
        ]
        if not by_layer:
            nothing = torch.zeros(0, num_heads, device=device)
            return GuidanceTerms(errors=nothing, mass=nothing, rows=nothing)
        return GuidanceTerms(*(torch.stack(values) for values in zip(*by_layer)))
