"""The `plan` command: what a recipe would cost, without training and without a GPU.

Memory is predicted by a step without memory and by counting what DeepSpeed keeps, see memory.py. For CUDA
that is what torch's allocator gives out at its peak; the CUDA context, NCCL's buffers and what the allocator
holds in reserve come on top. For CPU it is the peak of the process's resident set.

A corpus that is yet to be prepared can be assumed. The plan then says so, and what it cannot tell.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.format import read_manifest
from pipeline.build import guidance_weight, longest_rows, open_phases
from pipeline.config.assumed_corpus import UNKNOWN, AssumedCorpus, corpora_of
from pipeline.config.checks import World, load_checked_recipe
from pipeline.config.deepspeed_json import persistence_threshold, read_template, resolve
from pipeline.config.schema import Recipe
from pipeline.data.corpus import read_vocabulary
from pipeline.engine import PretrainingModule
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.schedule import alpha_of_weight
from pipeline.objectives.protocol import Facts
from pipeline.planning.fake_training import FakeTraining
from pipeline.planning.memory import MemoryPlan, estimate_memory
from pipeline.planning.phases import count_epochs, describe_phases, render_phases
from pipeline.planning.resident_base import resident_base
from pipeline.planning.sizes import Sizes, measure_sizes
from pipeline.planning.traffic import step_volume

_GIB = 2**30


def print_plan(
    recipe_name: str,
    overrides: list[str],
    world: World,
    *,
    as_json: bool,
    assumed: AssumedCorpus | None = None,
) -> None:
    """Check a recipe and print its plan for `world`; with `assumed` in the place of its corpora."""
    recipe = load_checked_recipe(recipe_name, overrides, world, assumed)
    base_bytes = 0 if world.on_cuda else resident_base(recipe.model.family)
    plan = make_plan(recipe, world, base_bytes, assumed)
    print(json.dumps(plan) if as_json else _render(plan))


def make_plan(
    recipe: Recipe, world: World, base_bytes: int = 0, assumed: AssumedCorpus | None = None
) -> dict[str, Any]:
    """Parameters, memory, steps, tokens and the resolved DeepSpeed configuration.

    Args:
        recipe: a checked one.
        world: the processes planned for.
        base_bytes: on CPU, what a process holds before it trains; see `resident_base`.
        assumed: in the place of the recipe's corpora.
    """
    read = read_manifest if assumed is None else assumed.manifest_of
    vocabulary = read_vocabulary(Path(recipe.corpus)) if assumed is None else assumed.vocabulary()
    template, _ = read_template(recipe.train.deepspeed)
    phases, manifests = open_phases(recipe, read)
    length = manifests[phases[-1].corpus].sequence_length
    lengths = [(phase.end_step, manifests[phase.corpus].sequence_length) for phase in phases]
    positions = recipe.model.max_positions or longest_rows(manifests.values())
    facts = Facts(vocabulary=vocabulary, positions=positions)
    training = FakeTraining(recipe, facts, lengths, on_cuda=world.on_cuda)
    parameters = sum(parameter.numel() for parameter in training.module.parameters())
    plans = []
    for phase in phases:
        manifest = manifests[phase.corpus]
        sizes = measure_sizes(recipe, phase, manifest, training.module, template, world)
        steps = training.steps(phase.micro_batch_size(world.world_size), manifest)
        plans.append(estimate_memory(sizes, *steps, base_bytes))
    memory = max(plans, key=MemoryPlan.resident)
    embedding: Any = training.module.model.get_input_embeddings()
    described = describe_phases(phases, manifests, world.world_size)
    epochs = {} if assumed else count_epochs(phases, manifests, recipe.data.train_share)
    return {
        "parameters": parameters,
        "embedding_parameters": embedding.weight.numel(),
        "sequence_length": length,
        "assumed": None if assumed is None else _describe_assumed(recipe, assumed),
        "processes": world.world_size,
        "steps": recipe.train.num_steps,
        "tokens_per_step": described[-1]["tokens_per_step"],
        "tokens": sum(phase["tokens"] for phase in described),
        "epochs": epochs.get(phases[-1].corpus),
        "epochs_by_corpus": epochs,
        "phases": described,
        "guidance": _describe_guidance(recipe, training.module, length),
        "memory_bytes_per_process": asdict(memory) | _total(memory, world.on_cuda),
        "communication": _communication(sizes, template),
        "deepspeed_config": resolve(recipe, template, world.world_size),
    }


def _describe_assumed(recipe: Recipe, assumed: AssumedCorpus) -> dict[str, Any]:
    return {
        "sequence_length": assumed.length,
        "vocabulary_size": assumed.vocabulary_size,
        "corpora": corpora_of(recipe),
        "unknown": list(UNKNOWN),
    }


def _describe_guidance(recipe: Recipe, module: PretrainingModule, length: int) -> dict[str, Any] | None:
    """Heads, and the weight in this project's unit and the authors', or the bias; None without guidance."""
    guidance = recipe.guidance
    if guidance.acts_by is None:
        return None
    allocations = [one.guide.allocation for one in module.regularizers if isinstance(one, RunGuidance)]
    allocation = allocations[0]
    weight, types = guidance_weight(recipe, allocation, length), allocation.num_layer_types
    is_convertible = guidance.normalization == "authors" or len(allocation.head_counts) == 1
    has_alpha = recipe.guided and guidance.row_error == "squared" and is_convertible
    return {
        "guided_layers": sum(len(one.guided_layers) for one in allocations),
        "guided_heads": sum(
            len(one.pattern_of_head(layer)) for one in allocations for layer in one.guided_layers
        ),
        "factor": weight if recipe.guided else None,
        "alpha": alpha_of_weight(weight, types, length) if has_alpha else None,
        "bias": guidance.bias if guidance.acts_by == "bias" else None,
    }


def _communication(sizes: Sizes, template: dict[str, Any]) -> dict[str, int]:
    """Bytes of an optimizer step: payloads of all, and what each process sends."""
    volume = step_volume(
        sizes.groups,
        sizes.value_bytes,
        sizes.stage,
        sizes.num_processes,
        sizes.micro_steps,
        persistence_threshold(template),
    )
    return asdict(volume) | {"sent_per_process": round(volume.sent(sizes.num_processes))}


def _total(memory: MemoryPlan, on_cuda: bool) -> dict[str, int]:
    return {"on_device": memory.on_device()} if on_cuda else {"resident": memory.resident()}


def _render(plan: dict[str, Any]) -> str:
    memory = dict(plan["memory_bytes_per_process"])
    on_device, peak_at = "on_device" in memory, memory.pop("peak_at")
    in_host = {"checkpoint_copy"} | ({"optimizer"} if memory.pop("optimizer_in_host_memory") else set())
    title = "on the device" if on_device else "resident set"
    total = memory.pop("on_device" if on_device else "resident")
    lines = [
        *_render_assumed(plan["assumed"]),
        f"parameters        {plan['parameters']:,} ({plan['embedding_parameters']:,} in the token embedding)",
        f"processes         {plan['processes']}",
        *(render_phases(plan) if len(plan["phases"]) > 1 else _render_steps(plan)),
        f"guidance          {_guidance_line(plan['guidance'])}",
        f"memory per process at its peak, in the {peak_at} part of a step (GiB)",
        *(
            f"  {name.replace('_', ' '):<15} {size / _GIB:8.3f}"
            + ("  in host memory" if on_device and name in in_host else "")
            for name, size in memory.items()
            if size
        ),
        f"  {title:<15} {total / _GIB:8.3f}",
        f"each process sends {plan['communication']['sent_per_process'] / _GIB:.3f} GiB per step",
        "DeepSpeed configuration",
        json.dumps(plan["deepspeed_config"], indent=2),
    ]
    return "\n".join(lines)


def _render_assumed(assumed: dict[str, Any] | None) -> list[str]:
    if assumed is None:
        return []
    return [
        f"assumed           {', '.join(assumed['corpora'])} to have full rows of "
        f"{assumed['sequence_length']:,} tokens and a vocabulary of {assumed['vocabulary_size']:,}",
        f"not known         {'; '.join(assumed['unknown'])}",
    ]


def _render_steps(plan: dict[str, Any]) -> list[str]:
    """Of a run that trains all its steps alike."""
    passes = "" if plan["epochs"] is None else f", {plan['epochs']:,.2f} passes over the corpus"
    return [
        f"rows              of {plan['sequence_length']} tokens",
        f"steps             {plan['steps']:,} of {plan['tokens_per_step']:,} tokens",
        f"tokens            {plan['tokens']:,}{passes}",
    ]


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
