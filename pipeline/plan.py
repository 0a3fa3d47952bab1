"""The `plan` command: what a recipe would cost, without training and without a GPU.

Memory is estimated by counting what PyTorch and DeepSpeed keep; the allocator's own reserve, communication
buffers and kernels' workspaces are not in it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, PretrainedConfig

from data_prep.format import Manifest, read_manifest
from pipeline.build import guidance_weight
from pipeline.config.checks import World, load_checked_recipe
from pipeline.config.deepspeed_json import offloads_optimizer, read_template, resolve, zero_stage
from pipeline.config.schema import Recipe
from pipeline.data.corpus import read_vocabulary
from pipeline.guidance.allocation import Allocation, allocate, head_table
from pipeline.guidance.schedule import alpha_of_weight
from pipeline.model import model_config

_GIB = 2**30
_BLOCK_BYTES = 4 * (1 << 20) * 4  # the guidance loss works on about four float32 blocks of 2^20 scores


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes per process, by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    guidance: int
    optimizer_in_host_memory: bool

    def on_device(self) -> int:
        """Sum of what lies on the device."""
        parts = asdict(self)
        host = parts.pop("optimizer_in_host_memory")
        return sum(parts.values()) - (self.optimizer if host else 0)


def print_plan(
    recipe_name: str, overrides: list[str], num_processes: int, on_cuda: bool, as_json: bool
) -> None:
    """Check a recipe and print its plan for `num_processes` GPUs (or CPU processes)."""
    world = World(world_size=num_processes, on_cuda=on_cuda)
    recipe = load_checked_recipe(recipe_name, overrides, world)
    plan = make_plan(recipe, world)
    print(json.dumps(plan) if as_json else _render(plan))


def make_plan(recipe: Recipe, world: World) -> dict[str, Any]:
    """Parameters, memory, steps, tokens and the resolved DeepSpeed configuration."""
    corpus = Path(recipe.corpus)
    manifest, vocabulary = read_manifest(corpus), read_vocabulary(corpus)
    template, _ = read_template(recipe.train.deepspeed)
    config = model_config(recipe.model, vocabulary, manifest.sequence_length)
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    guidance = recipe.guidance
    allocation = allocate(head_table(guidance.heads, guidance.layers, config.num_hidden_layers))
    memory = estimate_memory(recipe, config, manifest, parameters, template, allocation, world.world_size)
    rows = sum(shard.rows for shard in manifest.shards_of("train"))
    tokens_per_row = manifest.splits["train"].tokens / rows
    trained_rows = recipe.train.num_steps * recipe.train.global_batch_size
    return {
        "parameters": parameters,
        "embedding_parameters": config.vocab_size * config.hidden_size,
        "sequence_length": manifest.sequence_length,
        "processes": world.world_size,
        "steps": recipe.train.num_steps,
        "tokens_per_step": round(recipe.train.global_batch_size * tokens_per_row),
        "tokens": round(trained_rows * tokens_per_row),
        "epochs": trained_rows / rows,
        "guidance": _describe_guidance(recipe, allocation, manifest.sequence_length),
        "memory_bytes_per_process": asdict(memory) | {"on_device": memory.on_device()},
        "deepspeed_config": resolve(recipe, template, world.world_size),
    }


def estimate_memory(
    recipe: Recipe,
    config: PretrainedConfig,
    manifest: Manifest,
    parameters: int,
    template: dict[str, Any],
    allocation: Allocation,
    world_size: int,
) -> MemoryPlan:
    """Bytes per process for a recipe's model states, activations, logits and guidance buffers.

    ZeRO partitions the optimizer (stage 1), also the gradients (2), also the weights (3). Under DeepSpeed
    the optimizer holds float32 master weights and two moments.
    """
    stage, width = zero_stage(template), 4 if recipe.train.precision == "fp32" else 2
    masters = 0 if stage == 0 and width == 4 else 4
    batch, length = recipe.train.micro_batch_size, manifest.sequence_length
    predictions = batch * max(1, round(recipe.objective.mask_rate * length))
    return MemoryPlan(
        weights=width * parameters // (world_size if stage == 3 else 1),
        gradients=width * parameters // (world_size if stage >= 2 else 1),
        optimizer=(masters + 8) * parameters // (world_size if stage >= 1 else 1),
        activations=width * batch * length * _activation_values_per_token(recipe, config),
        # Logits in the model's type, in float32, and their gradient.
        logits=predictions * config.vocab_size * (width + 4 + 4),
        guidance=_guidance_bytes(recipe, allocation, config, batch * length, length, width),
        optimizer_in_host_memory=offloads_optimizer(template),
    )


def _guidance_bytes(
    recipe: Recipe, allocation: Allocation, config: PretrainedConfig, tokens: int, length: int, width: int
) -> int:
    """What a micro-batch of `tokens` positions keeps and needs for guidance while all layers are guided."""
    if recipe.guidance.acts_by == "bias":  # one dense mask per layer, kept for the backward pass
        heads = config.num_attention_heads
        return len(allocation.guided_layers) * tokens * heads * length * width
    if not recipe.guided:
        return 0
    guided_heads = sum(len(allocation.pattern_of_head(layer)) for layer in allocation.guided_layers)
    head_size = config.hidden_size // config.num_attention_heads
    # Kept: 5 numbers of 4 bytes and a flag per row. Passing: blocks of scores, gradients of query and key.
    return guided_heads * tokens * 21 + _BLOCK_BYTES + 2 * allocation.num_heads * tokens * head_size * 4


def _describe_guidance(recipe: Recipe, allocation: Allocation, length: int) -> dict[str, Any] | None:
    """Heads, and the weight in this project's unit and the authors', or the bias; None without guidance."""
    guidance = recipe.guidance
    if guidance.acts_by is None:
        return None
    weight, types = guidance_weight(recipe, allocation, length), allocation.num_layer_types
    has_alpha = recipe.guided and guidance.error == "squared"
    return {
        "guided_layers": len(allocation.guided_layers),
        "guided_heads": sum(len(allocation.pattern_of_head(layer)) for layer in allocation.guided_layers),
        "factor": weight if recipe.guided else None,
        "alpha": alpha_of_weight(weight, types, length) if has_alpha else None,
        "bias": guidance.bias if guidance.acts_by == "bias" else None,
    }


def _activation_values_per_token(recipe: Recipe, config: PretrainedConfig) -> int:
    """Values kept for the backward pass, per token.

    A layer keeps its input, Q, K, V, the attention's output, the two normalizations' inputs and outputs,
    and the feed-forward's hidden values before and after the activation (three times in gated layers).
    With activation checkpointing it keeps its input; one layer at a time is whole.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    one_layer = 9 * hidden + (3 if config.model_type == "modernbert" else 2) * inner
    embeddings = 3 * hidden
    if recipe.train.activation_checkpointing:
        return config.num_hidden_layers * hidden + one_layer + embeddings
    return config.num_hidden_layers * one_layer + embeddings


def _render(plan: dict[str, Any]) -> str:
    memory = dict(plan["memory_bytes_per_process"])
    in_host = memory.pop("optimizer_in_host_memory")
    total = memory.pop("on_device")
    lines = [
        f"parameters        {plan['parameters']:,} ({plan['embedding_parameters']:,} in the token embedding)",
        f"processes         {plan['processes']}",
        f"rows              of {plan['sequence_length']} tokens",
        f"steps             {plan['steps']:,} of {plan['tokens_per_step']:,} tokens",
        f"tokens            {plan['tokens']:,}, {plan['epochs']:,.2f} passes over the corpus",
        f"guidance          {_guidance_line(plan['guidance'])}",
        "memory per process, estimated (GiB)",
        *(
            f"  {name:<15} {size / _GIB:8.3f}{'  in host memory' if name == 'optimizer' and in_host else ''}"
            for name, size in memory.items()
        ),
        f"  {'on the device':<15} {total / _GIB:8.3f}",
        "DeepSpeed configuration",
        json.dumps(plan["deepspeed_config"], indent=2),
    ]
    return "\n".join(lines)


def _guidance_line(guidance: dict[str, Any] | None) -> str:
    if guidance is None:
        return "none"
    line = f"{guidance['guided_heads']} heads in {guidance['guided_layers']} layers, "
    if guidance["bias"] is not None:
        return line + f"{guidance['bias']:g} added to the scores of their targets"
    line += f"{guidance['factor']:.4g} times the mean row error"
    if guidance["alpha"] is not None:
        line += f" (the authors' alpha: {guidance['alpha']:.4g})"
    return line
