"""Collects the guidance terms of a model's layers during a forward pass."""

from dataclasses import dataclass

import torch

from pipeline.data.documents import Documents
from pipeline.guidance.allocation import Allocation
from pipeline.guidance.layer_guide import LayerGuide
from pipeline.guidance.row_terms import LossForm
from pipeline.guidance.schedule import GuidedStep
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
    """Guides a model's layers by a tap on each, `taps`, and turns what they saw into guidance terms.

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
        self.taps = [LayerGuide(allocation.pattern_of_head(layer)) for layer in range(len(allocation.layers))]
        self._indices: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._step = GuidedStep()

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
        self._step = guided
        first_rows = {layer.layer: layer.first_row for layer in guided.layers}
        bias_strength = torch.tensor(guided.bias) if guided.bias else None
        for layer, tap in enumerate(self.taps):
            tap.looks, tap.targets, tap.collects, tap.seen = layer in first_rows, targets, True, None
            tap.form = self.form if training else LossForm(name=self.form.name)
            tap.first_row = torch.tensor(first_rows.get(layer, 0))
            tap.row_stride = guided.row_stride
            tap.bias_strength = bias_strength if tap.pattern_of_head else None

    def collect(self, device: torch.device) -> GuidanceTerms:
        """The terms of the looked-at layers; empty tensors when there was none."""
        num_heads = self.allocation.num_heads
        by_layer = []
        for layer, tap in enumerate(self.taps):
            if tap.seen is not None:
                sums = self._sum_over_rows(layer, tap)
                by_layer.append([torch.nn.functional.pad(v, (0, num_heads - len(v))) for v in sums])
            tap.collects, tap.seen = False, None
        if not by_layer:
            nothing = torch.zeros(0, num_heads, device=device)
            return GuidanceTerms(errors=nothing, mass=nothing, rows=nothing)
        return GuidanceTerms(*(torch.stack(values) for values in zip(*by_layer)))

    def _sum_over_rows(self, layer: int, tap: LayerGuide) -> list[torch.Tensor]:
        """Errors, mass and number of the valid rows looked at, each (heads of the layer,)."""
        assert tap.seen is not None
        assert tap.targets is not None
        valid = tap.targets.valid.index_select(0, self._pattern_index(layer, tap.seen[0].device))
        valid = valid[:, :, int(tap.first_row) :: self._step.row_stride].transpose(0, 1)
        # There may be one more, which is beyond the last.
        errors, mass = (values[..., : valid.shape[-1]] for values in tap.seen)
        return [
            torch.where(valid, errors, 0.0).sum((0, 2)),
            torch.where(valid, mass, 0.0).sum((0, 2)),
            valid.sum((0, 2)).float(),
        ]

    def _pattern_index(self, layer: int, device: torch.device) -> torch.Tensor:
        """Pattern of each guided head of a layer; kept on the device, or every step would wait for a copy."""
        key = layer, device
        if key not in self._indices:
            self._indices[key] = torch.tensor(self.allocation.pattern_of_head(layer), device=device)
        return self._indices[key]
