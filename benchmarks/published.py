"""Attention guidance the published way, for comparison: all maps kept, dense targets, mean squared error."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.data.batches import Batch
from pipeline.engine import PretrainingModule


def dense_target(pattern: str, length: int) -> torch.Tensor:
    """The 0/1 target matrix of a pattern as the published code builds it, (N, N), in host memory."""
    if pattern == "first":
        target = torch.zeros(length, length)
        target[:, 0] = 1.0
        return target
    offset = {"next": 1, "previous": -1, "self": 0}[pattern]
    return torch.diag(torch.ones(length - abs(offset)), offset)


def published_loss(maps: torch.Tensor, heads: dict[str, int]) -> torch.Tensor:
    """Sum over pattern types of the mean squared error of their heads' maps (B, H, N, N)."""
    loss, first = torch.zeros((), device=maps.device), 0
    for pattern, count in heads.items():
        # Built in host memory and copied in every step, as published.
        target = dense_target(pattern, maps.shape[-1]).repeat(len(maps), count, 1, 1).to(maps)
        loss = loss + F.mse_loss(maps[:, first : first + count], target)
        first += count
    return loss


class PublishedGuidance(nn.Module):
    """Objective and guidance loss of a RoBERTa with eager attention whose maps are all kept."""

    def __init__(self, module: PretrainingModule, heads: dict[str, int]) -> None:
        super().__init__()
        self.model, self.heads = module.model, heads
        self.model.set_attn_implementation("eager")

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed cross-entropy, and the guidance loss summed over layers."""
        positions, labels = batch.columns["positions"], batch.columns["labels"]
        corrupted = batch.input_ids.scatter(1, positions, batch.columns["replacements"])
        outputs = self.model.base_model(corrupted, output_attentions=True)
        index = positions[..., None].expand(-1, -1, outputs.last_hidden_state.shape[-1])
        logits = self.model.lm_head(outputs.last_hidden_state.gather(1, index)).float()
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return loss, torch.stack([published_loss(maps, self.heads) for maps in outputs.attentions]).sum()
