"""What the memory and the traffic of a run depend on beside its forward and backward passes, in numbers."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from data_prep.format import Manifest
from pipeline.config.checks import World
from pipeline.config.deepspeed_json import (
    offloads_optimizer,
    prefetched_values,
    reduction_buckets,
    zero_stage,
)
from pipeline.config.schema import Recipe
from pipeline.data.phases import Phase
from pipeline.engine import parameter_groups


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the memory of a process depends on, whatever the model computes.

    Attributes:
        groups: values of each parameter, in order, for each group of the optimizer.
        micro_steps: forward passes of a step.
        value_bytes: w.
        stage: of ZeRO.
        num_processes: N.
        on_cuda: or on CPU.
        bucket: values that ZeRO reduces at once.
        num_buckets: of them at a time.
        prefetched: values of weights that stage 3 gathers ahead.
        offloads: optimizer states in host memory.
        update_values: float32 values per weight that the optimizer makes for a moment.
        copies_checkpoint: checkpoints are written in the background.
        corpus_bytes, trained_rows: of the training shards, and the rows this process takes from them.
    """

    groups: tuple[tuple[int, ...], ...]
    micro_steps: int
    value_bytes: int
    stage: int
    num_processes: int
    on_cuda: bool
    bucket: int
    num_buckets: int
    prefetched: int
    offloads: bool
    update_values: int
    copies_checkpoint: bool
    corpus_bytes: int
    trained_rows: int

    @property
    def parameters(self) -> int:
        """P."""
        return sum(sum(group) for group in self.groups)

    @property
    def largest_parameter(self) -> int:
        """Values of the largest parameter: the embeddings', as a rule."""
        return max(max(group, default=0) for group in self.groups)

    @property
    def share(self) -> int:
        """Values of a partition of the optimizer states, all groups together."""
        return sum(-(-sum(group) // self.num_shares) for group in self.groups)

    @property
    def largest_share(self) -> int:
        """Values of a partition of the largest group, which the optimizer updates at once."""
        return max(-(-sum(group) // self.num_shares) for group in self.groups)

    @property
    def num_shares(self) -> int:
        """How many partitions there are of the optimizer states."""
        return self.num_processes if self.stage >= 1 else 1

    @property
    def is_mixed(self) -> bool:
        """The model's values are narrower than the optimizer's."""
        return self.value_bytes < 4


def measure_sizes(
    recipe: Recipe,
    phase: Phase,
    manifest: Manifest,
    module: nn.Module,
    template: dict[str, Any],
    world: World,
) -> Sizes:
    """Of a phase of a run; `module` is what it trains, and need not have memory."""
    train, processes = recipe.train, world.world_size
    bucket, overlaps = reduction_buckets(template)
    return Sizes(
        groups=tuple(tuple(p.numel() for p in group["params"]) for group in parameter_groups(module, 0.0)),
        micro_steps=phase.global_batch_size // (phase.micro_batch_size(processes) * processes),
        value_bytes=4 if train.precision == "fp32" else 2,
        stage=zero_stage(template),
        num_processes=processes,
        on_cuda=world.on_cuda,
        bucket=bucket,
        num_buckets=2 if overlaps else 1,
        prefetched=prefetched_values(template),
        offloads=offloads_optimizer(template),
        update_values=2 if recipe.optimizer.kind == "lamb" else 0,  # a fused AdamW makes none
        copies_checkpoint=recipe.checkpoint.asynchronous and recipe.checkpoint.every_steps < train.num_steps,
        corpus_bytes=sum(shard.bytes for shard in manifest.shards_of("train")),
        trained_rows=(phase.end_step - phase.first_step) * phase.global_batch_size // processes,
    )
