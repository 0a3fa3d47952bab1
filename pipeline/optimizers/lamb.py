"""LAMB: AdamW whose update of each matrix is as long as the matrix itself (You et al. 2020, algorithm 2).

    r = m' / (sqrt(v') + eps) + weight_decay * w       m', v': Adam's moments of the gradient, bias-corrected
    w = w - learning_rate * |w| / |r| * r              for matrices and embeddings
    w = w - learning_rate * r                          for biases and norm weights

|w| / |r| is the trust ratio. It has no bounds (the paper's phi is the identity here), and is 1 where either
norm is 0. The norms are those of whole parameters. ZeRO gives an optimizer flat tensors instead, each with
pieces of many parameters, so the squares of the pieces are summed over all processes: one all-reduce of two
numbers per parameter. https://arxiv.org/abs/1904.00962
"""

from typing import Any

import torch
import torch.distributed as dist

from pipeline.optimizers.norms import norms_of
from pipeline.optimizers.pieces import Layout


class Lamb(torch.optim.Optimizer):
    """LAMB for whole parameters and for the flat tensors that ZeRO makes of them.

    Its state has the names and shapes of torch's AdamW: step, exp_avg, exp_avg_sq.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: list[float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """Groups of parameters with two or more dimensions get the trust ratio, others do not."""
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            group["has_trust_ratio"] = all(parameter.ndim >= 2 for parameter in group["params"])
        self._layouts: dict[torch.Tensor, Layout] = {}

    def set_layouts(self, layouts: dict[torch.Tensor, Layout]) -> None:
        """Tell what the flat tensors consist of; any other tensor is a whole parameter."""
        self._layouts = layouts

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters of all groups, the same tensors in the same order on every process."""
        for group in self.param_groups:
            for weight in group["params"]:
                update = self._adam_direction(weight, group["betas"], group["eps"])
                update.add_(weight, alpha=group["weight_decay"])
                if group["has_trust_ratio"]:
                    self._apply_trust_ratios(weight, update)
                weight.add_(update, alpha=-group["lr"])

    def _adam_direction(self, weight: torch.Tensor, betas: list[float], eps: float) -> torch.Tensor:
        state = self.state[weight]
        if not state:
            state["step"] = torch.tensor(0.0)  # in host memory: nothing waits for the device
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        step, (beta1, beta2) = state["step"].item(), betas
        state["exp_avg"].lerp_(weight.grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
        divisor = state["exp_avg_sq"].div(1 - beta2**step).sqrt_().add_(eps)
        return state["exp_avg"].div(1 - beta1**step).div_(divisor)

    def _apply_trust_ratios(self, weight: torch.Tensor, update: torch.Tensor) -> None:
        layout = self._layouts.get(weight)
        if layout is None:
            update.mul_(trust_ratio(*norms_of([weight, update])))
            return
        weights, updates = layout.split(weight), layout.split(update)
        squares = torch.stack([layout.sums_of_squares(weights), layout.sums_of_squares(updates)])
        dist.all_reduce(squares)
        ratios = trust_ratio(*squares.sqrt()).to(update.dtype)
        if updates:
            torch._foreach_mul_(updates, [ratios[piece.parameter] for piece in layout.pieces])


def trust_ratio(weight_norm: torch.Tensor, update_norm: torch.Tensor) -> torch.Tensor:
    """|w| / |r|, elementwise, and 1 where either is 0."""
    is_defined = (weight_norm > 0) & (update_norm > 0)
    return torch.where(is_defined, weight_norm / update_norm, 1.0)
