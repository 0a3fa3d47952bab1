"""LAMB as the paper has it, one whole parameter after another, in float64 (You et al. 2020, algorithm 2)."""

import math
from typing import Any

import torch


class ReferenceLamb:
    """Takes gradients rather than finding them; clips them as a whole first."""

    def __init__(self, weights: list[torch.Tensor], *, betas: list[float], eps: float, decay: float) -> None:
        self.weights = [weight.detach().double().clone() for weight in weights]
        self.betas, self.eps, self.decay = betas, eps, decay
        self.means: list[Any] = [0.0] * len(weights)
        self.squares: list[Any] = [0.0] * len(weights)
        self.steps = 0

    def step(self, gradients: list[torch.Tensor], learning_rate: float, max_norm: float = math.inf) -> None:
        norm = torch.stack([gradient.double().norm() for gradient in gradients]).norm()
        clip = min(1.0, max_norm / float(norm + 1e-6))
        self.steps += 1
        beta1, beta2 = self.betas
        for number, weight in enumerate(self.weights):
            gradient = gradients[number].double() * clip
            mean = self.means[number] = beta1 * self.means[number] + (1 - beta1) * gradient
            square = self.squares[number] = beta2 * self.squares[number] + (1 - beta2) * gradient**2
            direction = mean / (1 - beta1**self.steps)
            direction = direction / ((square / (1 - beta2**self.steps)).sqrt() + self.eps)
            ratio = 1.0
            if weight.ndim >= 2:
                direction = direction + self.decay * weight
                if weight.norm() > 0 and direction.norm() > 0:
                    ratio = float(weight.norm() / direction.norm())
            self.weights[number] = weight - learning_rate * ratio * direction
