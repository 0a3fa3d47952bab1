"""From a template of ds_configs/ to the complete DeepSpeed configuration of a run.

A template holds "auto" where the recipe decides. Everything else is DeepSpeed's own, but linted, because
DeepSpeed ignores top-level keys it does not know and clips at 1.0 when nothing is said.
"""

import difflib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config.load import Problem
from pipeline.config.schema import Recipe

TEMPLATES_DIR = Path(__file__).parents[2] / "ds_configs"

_FILLED_BY = {  # blank -> the recipe keys that fill it
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.global_batch_size",
    "gradient_clipping": "optimizer.gradient_clipping",
    "optimizer": "optimizer",
    "bf16": "train.precision",
    "fp16": "train.precision",
}
_KEPT = {  # passed to DeepSpeed as they stand in the template
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "communication_data_type",
    "data_types",
    "torch_autocast",
    "prescale_gradients",
    "gradient_predivide_factor",
    "steps_per_print",
    "wall_clock_breakdown",
    "dump_state",
    "flops_profiler",
    "comms_logger",
    "aio",
    "checkpoint",
    "compile",
}
_FP16_DEFAULTS = {"enabled": True, "loss_scale": 0, "initial_scale_power": 16, "min_loss_scale": 1}


def find_template(name: str) -> Path:
    """File of a template: a name in ds_configs/ or a path."""
    shipped = TEMPLATES_DIR / f"{name}.json"
    return shipped if shipped.is_file() else Path(name)


def read_template(name: str) -> tuple[dict[str, Any], list[Problem]]:
    """A template and what is wrong with it."""
    path = find_template(name)
    if not path.is_file():
        names = ", ".join(sorted(template.stem for template in TEMPLATES_DIR.glob("*.json")))
        return {}, [_problem(f"no file {name!r}; write a path or one of {names}")]
    try:
        template = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return {}, [_problem(f"{path} is not JSON: {error}")]
    if not isinstance(template, dict):
        return {}, [_problem(f"{path} holds no JSON object")]
    return template, _lint(path, template)


def zero_stage(template: dict[str, Any]) -> int:
    """The ZeRO stage of a template; 0 when it names none."""
    return int(_zero_section(template).get("stage", 0))


def offloads_optimizer(template: dict[str, Any]) -> bool:
    """Whether optimizer states live in host memory."""
    return "offload_optimizer" in _zero_section(template)


def reduction_buckets(template: dict[str, Any]) -> tuple[int, bool]:
    """Values that ZeRO reduces at once, and whether it fills another bucket meanwhile."""
    section = _zero_section(template)
    return int(section.get("reduce_bucket_size", 500_000_000)), bool(section.get("overlap_comm", False))


def prefetched_values(template: dict[str, Any]) -> int:
    """At stage 3: values of weights that are gathered ahead."""
    return int(_zero_section(template).get("stage3_prefetch_bucket_size", 50_000_000))


def persistence_threshold(template: dict[str, Any]) -> int:
    """At stage 3: parameters of so many values at most are not divided between forward passes."""
    return int(_zero_section(template).get("stage3_param_persistence_threshold", 100_000))


def resolve(recipe: Recipe, template: dict[str, Any], world_size: int) -> dict[str, Any]:
    """The configuration given to DeepSpeed: the template with its blanks filled from the recipe."""
    train = recipe.train
    micro_batch_size = recipe.micro_batch_size(world_size)
    return {
        **{key: value for key, value in template.items() if key in _KEPT},
        "train_batch_size": train.global_batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": train.global_batch_size // (micro_batch_size * world_size),
        "gradient_clipping": recipe.optimizer.gradient_clipping,
        "bf16": {"enabled": train.precision == "bf16"},
        "fp16": _FP16_DEFAULTS if train.precision == "fp16" else {"enabled": False},
        # DeepSpeed's own clock waits for the device at both ends of every step; metrics.jsonl has the rates.
        "timers": {"throughput": {"enabled": False}},
        **_resolve_optimizer(recipe),
    }


def _resolve_optimizer(recipe: Recipe) -> dict[str, Any]:
    section = recipe.optimizer
    settings = {
        "lr": section.learning_rate,
        "betas": section.betas,
        "eps": section.eps,
        "weight_decay": section.weight_decay,
    }
    if section.kind == "lamb":
        return {
            "optimizer": {"type": "Lamb", "params": settings},
            "zero_allow_untested_optimizer": True,  # DeepSpeed knows a list of optimizers, and ours is tested
            "zero_force_ds_cpu_optimizer": False,  # offloaded, it would refuse all but its own
        }
    # torch's fused AdamW everywhere, in one pass over memory. On CPU it is as fast as DeepSpeed's own for
    # offloaded states (docs/optimizers.md), which would take minutes to compile on each kind of machine.
    return {"optimizer": {"type": "AdamW", "params": {**settings, "torch_adam": True, "fused": True}}}


def _lint(path: Path, template: dict[str, Any]) -> list[Problem]:
    problems = []
    for key, value in template.items():
        if key in _FILLED_BY:
            if value != "auto":
                problems.append(
                    _problem(
                        f'{path} sets {key}={value!r}; write "auto", the recipe\'s {_FILLED_BY[key]} decides'
                    )
                )
        elif key not in _KEPT:
            near = difflib.get_close_matches(key, [*_FILLED_BY, *_KEPT], n=1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else "DeepSpeed would ignore it or it is not supported here"
            )
            problems.append(_problem(f"{path} has the key {key!r}; {hint}"))
    return [*problems, *_lint_zero(path, template)]


def _lint_zero(path: Path, template: dict[str, Any]) -> list[Problem]:
    """Let DeepSpeed's own model judge the section now, rather than when training starts."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    section = template.get("zero_optimization", {})
    if not isinstance(section, dict):
        return [_problem(f'{path}: zero_optimization is {section!r}; write an object such as {{"stage": 1}}')]
    if section.get("stage", 0) not in (0, 1, 2, 3):
        found = section["stage"]
        return [_problem(f"{path}: zero_optimization.stage is {found!r}; write 0, 1, 2 or 3")]
    for name in ("offload_optimizer", "offload_param"):
        if isinstance(section.get(name), dict) and section[name].get("device") == "nvme":
            return [_problem(f"{path}: {name} on nvme would not be part of a checkpoint; write device: cpu")]
    offload = section.get("offload_optimizer")
    if isinstance(offload, dict) and (ratio := offload.get("ratio", 1.0)) != 1.0:
        harm = "what stays on the device would not be part of a checkpoint"
        return [_problem(f"{path}: offload_optimizer.ratio is {ratio!r}; {harm}; leave it out")]
    if (found := section.get("round_robin_gradients", False)) is not False:
        # DeepSpeed 0.19 notes for each parameter the place that it would have without.
        harm = "a checkpoint for another number of processes would mix the parameters up"
        return [_problem(f"{path}: round_robin_gradients is {found!r}; {harm}; leave it out")]
    try:
        DeepSpeedZeroConfig(**section)
    except ValidationError as error:
        return [
            _problem(
                f"{path}: zero_optimization.{'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}"
            )
            for e in error.errors()
        ]
    return []


def _zero_section(template: dict[str, Any]) -> dict[str, Any]:
    section = template.get("zero_optimization", {})
    return section if isinstance(section, dict) else {}


def _problem(message: str) -> Problem:
    return Problem(("train.deepspeed",), message)
