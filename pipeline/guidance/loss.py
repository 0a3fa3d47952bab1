"""From the errors of a step's layers to one loss.

`mean`: the mean of e over guided layers, heads and valid rows. It does not depend on sequence length, depth
or number of heads. `authors`: as in the published code, the sum over layers and pattern types of the mean
over the type's heads and n x n elements, times alpha. Both are a weighted sum of the heads' mean errors per
row, so a step's loss is

    weight * sum over looked-at layers l, heads h of  share_lh / probability_l * stride * sum_rows e / rows_h

where rows_h is the number of valid rows of the global batch, whether looked at or not.
"""

from dataclasses import dataclass

import torch

from pipeline.guidance.allocation import Allocation
from pipeline.guidance.schedule import GuidedStep


@dataclass(frozen=True)
class GuidanceLoss:
    """Joins the errors of heads.

    Attributes:
        shares: of each head's mean row error in the loss, (layers, heads); 0 for heads that are not guided.
        pattern_of_head: place of each head's pattern, (layers, heads); 0 where there is none.
    """

    shares: torch.Tensor
    pattern_of_head: torch.Tensor

    def __call__(self, guided: GuidedStep, errors: torch.Tensor, valid_rows: torch.Tensor) -> torch.Tensor:
        """The step's loss, weight included: this micro-batch's part of the global batch's.

        Args:
            guided: what the step looks at.
            errors: summed over the micro-batch's looked-at valid rows, (looked-at layers, heads).
            valid_rows: of the global batch, per pattern, (patterns,), in host memory.
        """
        layers = [layer.layer for layer in guided.layers]
        factors = torch.tensor([guided.row_stride / layer.probability for layer in guided.layers])
        rows = valid_rows.clamp(min=1)[self.pattern_of_head[layers]]
        # Made in host memory and copied without waiting for the device.
        coefficients = (guided.weight * self.shares[layers] * factors[:, None] / rows).float()
        return (coefficients.to(errors.device, non_blocking=True) * errors).sum()


def make_guidance_loss(allocation: Allocation, normalization: str) -> GuidanceLoss:
    """The loss of an allocation.

    The shares sum to 1 in either normalization. By "mean" all guided heads have the same; by "authors" all
    types of all layers have the same, divided among the type's heads: there 1 / (layers x types x heads of
    the type), and the weight that belongs to it is alpha x layers x types / n (`weight_of_alpha`).
    """
    shape = (len(allocation.layers), allocation.num_heads)
    shares, pattern_of_head = torch.zeros(shape), torch.zeros(shape, dtype=torch.long)
    for layer, groups in enumerate(allocation.layers):
        patterns = allocation.pattern_of_head(layer)
        pattern_of_head[layer, : len(patterns)] = torch.tensor(patterns, dtype=torch.long)
        for group in groups:
            num_heads = group.end_head - group.first_head
            heads = slice(group.first_head, group.end_head)
            shares[layer, heads] = 1.0 / num_heads if normalization == "authors" else 1.0
    return GuidanceLoss(shares / max(1.0, shares.sum().item()), pattern_of_head)
