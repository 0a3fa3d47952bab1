"""The tap of one layer: turns the query and key of a looked-at layer into row errors."""

from collections.abc import Sequence

import torch

from pipeline.encoder.attention import AttentionInputs
from pipeline.guidance.bias import target_bias
from pipeline.guidance.row_terms import LossForm, row_terms
from pipeline.guidance.targets import Targets


class LayerGuide:
    """An attention tap, told by AttentionGuide before each forward pass what to do.

    Whatever changes from step to step is a flag or a tensor: torch.compile makes a graph for a layer that is
    looked at and one for a layer that is not, and each serves every step and every layer with the same heads.

    Attributes:
        looks: whether the pass looks at the layer.
        targets: of the micro-batch; None for a pass that needs none.
        form: the error.
        first_row: first row looked at, a tensor () in host memory.
        row_stride: distance of the rows looked at.
        bias_strength: None, or what is added to the targets' scores, a tensor ().
        collects: whether the result is kept; not while a layer is computed again in the backward pass.
        seen: result of the pass: errors and mass of the looked-at rows, both (B, H, ceil(N / row_stride)).
    """

    needs_hidden = False

    def __init__(self, pattern_of_head: Sequence[int]) -> None:
        """Of a layer whose heads from 0 up have these patterns."""
        self.pattern_of_head = list(pattern_of_head)
        self.looks = False
        self.targets: Targets | None = None
        self.form = LossForm()
        self.first_row = torch.tensor(0)
        self.row_stride = 1
        self.bias_strength: torch.Tensor | None = None
        self.collects = False
        self.seen: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def adds_bias(self) -> bool:
        """See AttentionTap."""
        return self.bias_strength is not None

    def observe(self, inputs: AttentionInputs) -> None:
        """See AttentionTap."""
        if not self.looks or self.targets is None:
            return
        num_heads = len(self.pattern_of_head)
        terms = row_terms(
            inputs.query[:, :num_heads],
            inputs.key[:, :num_heads],
            inputs.scaling,
            inputs.mask,
            self.targets,
            self.pattern_of_head,
            self.form,
            self.first_row,
            self.row_stride,
            inputs.spans,
        )
        if self.collects:
            self.seen = terms

    def bias(self, query: torch.Tensor) -> torch.Tensor | None:
        """See AttentionTap."""
        if self.bias_strength is None or self.targets is None:
            return None
        return target_bias(self.targets, self.pattern_of_head, query, self.bias_strength)
