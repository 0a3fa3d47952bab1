"""What the memory and the traffic of a run depend on, in numbers."""

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

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
from pipeline.encoder.attention_scope import suits_sequences
from pipeline.encoder.families import attention_dropout, attention_reach, hidden_dropout
from pipeline.engine import parameter_groups
from pipeline.guidance.allocation import Allocation


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the memory of a process depends on.

    Attributes:
        family: of the encoder.
        num_layers, hidden, inner, num_heads, vocabulary: L, D, F, H and V.
        groups: values of each parameter, in order, for each group of the optimizer.
        local_layers: layers in which a token sees only its surroundings.
        rows, length, predictions: B, T and K.
        has_mask: rows are not full, or attention by mask stays inside documents.
        micro_steps: forward passes of a step.
        value_bytes: w.
        dropout, attention_dropout: whether there is some.
        recomputes: activation checkpointing.
        stage: of ZeRO.
        num_processes: N.
        on_cuda: or on CPU.
        bucket: values that ZeRO reduces at once.
        num_buckets: of them at a time.
        prefetched: values of weights that stage 3 gathers ahead.
        offloads: optimizer states in host memory.
        update_values: float32 values per weight that the optimizer makes for a moment.
        guided_layers, guided_heads: guided layers, and guided heads of all layers.
        most_guided_heads: the same of all patterns, of one layer.
        adds_bias: guidance adds to the scores instead of having a loss.
        copies_checkpoint: checkpoints are written in the background.
        corpus_bytes, trained_rows: of the training shards, and the rows this process takes from them.
    """

    family: str
    num_layers: int
    hidden: int
    inner: int
    num_heads: int
    vocabulary: int
    groups: tuple[tuple[int, ...], ...]
    local_layers: int
    rows: int
    length: int
    predictions: int
    has_mask: bool
    micro_steps: int
    value_bytes: int
    dropout: bool
    attention_dropout: bool
    recomputes: bool
    stage: int
    num_processes: int
    on_cuda: bool
    bucket: int
    num_buckets: int
    prefetched: int
    offloads: bool
    update_values: int
    guided_layers: int
    guided_heads: int
    most_guided_heads: int
    adds_bias: bool
    copies_checkpoint: bool
    corpus_bytes: int
    trained_rows: int

    @property
    def parameters(self) -> int:
        """P."""
        return sum(sum(group) for group in self.groups)

    @property
    def tokens(self) -> int:
        """Of a micro-batch, padding included."""
        return self.rows * self.length

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

    @property
    def spells_attention_out(self) -> bool:
        """On CPU there is no fused attention with dropout: its T x T matrices are made."""
        return self.attention_dropout and not self.on_cuda


def measure_sizes(
    recipe: Recipe,
    phase: Phase,
    manifest: Manifest,
    config: PretrainedConfig,
    model: PreTrainedModel,
    template: dict[str, Any],
    allocation: Allocation,
    world: World,
) -> Sizes:
    """Of a phase of a run; `model` may be on the meta device."""
    train, processes = recipe.train, world.world_size
    rows, length = phase.micro_batch_size(processes), manifest.sequence_length
    heads = [len(allocation.pattern_of_head(layer)) for layer in allocation.guided_layers]
    is_guided = recipe.guidance.acts_by is not None
    split = manifest.splits["train"]
    by_sequence = (
        world.on_cuda
        and train.precision != "fp32"
        and suits_sequences(
            config.hidden_size // config.num_attention_heads,
            attention_dropout(config),
            recipe.guidance.acts_by == "bias",
        )
    )
    bucket, overlaps = reduction_buckets(template)
    return Sizes(
        family=config.model_type,
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        num_heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        groups=tuple(tuple(p.numel() for p in group["params"]) for group in parameter_groups(model, 0.0)),
        local_layers=sum(
            attention_reach(config, layer) is not None for layer in range(config.num_hidden_layers)
        ),
        rows=rows,
        length=length,
        predictions=max(1, round(getattr(recipe.objective, "mask_rate", 0.15) * length)),
        has_mask=split.tokens < split.rows * length
        or not (recipe.data.attend_across_documents or by_sequence),
        micro_steps=phase.global_batch_size // (rows * processes),
        value_bytes=4 if train.precision == "fp32" else 2,
        dropout=hidden_dropout(config) > 0.0,
        attention_dropout=attention_dropout(config) > 0.0,
        recomputes=train.activation_checkpointing,
        stage=zero_stage(template),
        num_processes=processes,
        on_cuda=world.on_cuda,
        bucket=bucket,
        num_buckets=2 if overlaps else 1,
        prefetched=prefetched_values(template),
        offloads=offloads_optimizer(template),
        update_values=2 if recipe.optimizer.kind == "lamb" else 0,  # a fused AdamW makes none
        guided_layers=len(heads) if is_guided else 0,
        guided_heads=sum(heads) if is_guided else 0,
        most_guided_heads=max(heads, default=0),
        adds_bias=recipe.guidance.acts_by == "bias",
        copies_checkpoint=recipe.checkpoint.asynchronous and recipe.checkpoint.every_steps < train.num_steps,
        corpus_bytes=sum(shard.bytes for shard in manifest.shards_of("train")),
        trained_rows=(phase.end_step - phase.first_step) * phase.global_batch_size // processes,
    )
