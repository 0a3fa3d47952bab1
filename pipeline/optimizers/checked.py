"""The optimizers of ZeRO stage 0 in fp32, which DeepSpeed would take as they are."""

import math
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_

from pipeline.optimizers.lamb import Lamb
from pipeline.optimizers.norms import total_norm


class Checked(torch.optim.Optimizer):
    """Leaves out an update whose gradient is not finite, as DeepSpeed's own optimizers do.

    To be written before the optimizer it checks. At ZeRO stage 0 in fp32 DeepSpeed takes an optimizer as it
    is, which would write a NaN into all weights. Gradients are the same on all processes there, so all find
    the same.

    Attributes:
        overflow: whether the last update was left out; DeepSpeed's engine asks for it.
    """

    def __init__(self, groups: list[dict[str, Any]], *, max_norm: float, **settings: Any) -> None:
        """Gradients are clipped to the norm `max_norm`; 0 leaves them as they are."""
        super().__init__(groups, **settings)
        self.max_norm = max_norm or math.inf
        self.overflow = False
        self._global_grad_norm: torch.Tensor | None = None  # DeepSpeed's engine tells it as its own

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Clip and update, or do nothing."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        # torch's clip_grad_norm_ would clip by a norm that is too small for large parameters on CPU.
        self._global_grad_norm = total_norm([p.grad for p in parameters if p.grad is not None])
        clip_grads_with_norm_(parameters, self.max_norm, self._global_grad_norm)
        self.overflow = not bool(torch.isfinite(self._global_grad_norm))
        if not self.overflow:
            super().step()


class CheckedAdamW(Checked, torch.optim.AdamW):
    """torch's AdamW, checked."""


class CheckedLamb(Checked, Lamb):
    """LAMB, checked."""
