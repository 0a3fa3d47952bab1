"""Collects the guidance errors of a model's layers during a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.guidance.loss import LayerAttention, row_errors
from pipeline.guidance.patterns import PatternHeads
from pipeline.guidance.timer import Timer


@dataclass(frozen=True)
class GuidanceTerms:
    """Sums over the valid rows of a micro-batch, one line per watched layer, ascending.

    Attributes:
        errors: squared row errors, (layers, guided heads), differentiable.
        mass: attention on target, (layers, guided heads).
    """

    errors: torch.Tensor
    mass: torch.Tensor


class AttentionGuide:
    """An attention tap that turns the query and key of the watched layers into guidance terms.

    Call `watch` before a forward pass and `collect` after it. Under activation checkpointing a layer is
    seen again during the backward pass, and must do the same work then; those terms are not kept.
    """

    def __init__(self, groups: Sequence[PatternHeads], device: torch.device) -> None:
        """`groups` are the patterns and their heads."""
        self.groups = tuple(groups)
        self.num_heads = self.groups[-1].end_head if self.groups else 0
        self.timer = Timer(device)
        self._watched: frozenset[int] = frozenset()
        self._lengths: torch.Tensor | None = None
        self._seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._collecting = False

    def watch(self, layers: Sequence[int], lengths: torch.Tensor) -> None:
        """Begin a forward pass of sequences with `lengths` (B,) real tokens; no layers: nothing is done."""
        self._watched = frozenset(layers)
        self._lengths = lengths
        self._seen = {}
        self._collecting = True

    def observe(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, scaling: float, mask: torch.Tensor | None
    ) -> None:
        """See AttentionTap."""
        if layer not in self._watched or self._lengths is None:
            return
        attention = LayerAttention(
            query=query[:, : self.num_heads],
            key=key[:, : self.num_heads],
            scaling=scaling,
            mask=mask,
            lengths=self._lengths,
        )
        terms = row_errors(attention, self.groups, self.timer)
        if self._collecting:
            self._seen[layer] = terms

    def collect(self, device: torch.device) -> GuidanceTerms:
        """The terms of the watched layers; empty tensors when none was watched."""
        seen, self._seen = self._seen, {}
        self._collecting = False
        if not seen:
            nothing = torch.zeros(0, self.num_heads, device=device)
            return GuidanceTerms(errors=nothing, mass=nothing)
        layers = sorted(seen)
        return GuidanceTerms(
            errors=torch.stack([seen[layer][0] for layer in layers]),
            mass=torch.stack([seen[layer][1] for layer in layers]),
        )

    def count_valid(self, lengths: torch.Tensor) -> torch.Tensor:
        """Valid rows per guided head for sequences of `lengths` (B,): float64 (guided heads,)."""
        counts = [
            group.pattern.count_valid(lengths)
            for group in self.groups
            for _ in range(group.end_head - group.first_head)
        ]
        return torch.stack(counts).double() if counts else torch.zeros(0, dtype=torch.float64)
