"""From a whole checkpoint back into an engine, cut for it if need be."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from pipeline.checkpoints.manifest import CheckpointManifest, read_checkpoint_manifest, state_name, step_of
from pipeline.checkpoints.universal import CONVERTIBLE_STAGES, convert
from pipeline.errors import CheckpointError, UsageError

_RECIPES = ("clip_grad", "loss_scaler", "dynamic_loss_scale")  # DeepSpeed takes them from the checkpoint


@dataclass(frozen=True)
class Source:
    """A checkpoint that a run of a certain size can load.

    Attributes:
        checkpoint: as it was saved.
        converted: its universal form; None where the pieces fit as they are.
        world_size: number of processes that saved it.
    """

    checkpoint: Path
    converted: Path | None
    world_size: int

    @property
    def step(self) -> int:
        """Optimizer steps it stands for."""
        return step_of(self.checkpoint)


def prepare(checkpoint: Path, world_size: int, zero_stage: int) -> Source:
    """Make a checkpoint that proved to be whole loadable. Runs on the main process only.

    Raises:
        UsageError: there is no way from the checkpoint's ZeRO stage to this one.
        CheckpointError: it could not be converted.
    """
    manifest = read_checkpoint_manifest(checkpoint)
    is_foreign = needs_conversion(manifest, world_size, zero_stage)
    return Source(checkpoint, convert(checkpoint) if is_foreign else None, manifest.world_size)


def needs_conversion(manifest: CheckpointManifest, world_size: int, zero_stage: int) -> bool:
    """Whether a checkpoint's pieces do not fit so many processes at this ZeRO stage.

    Stage 0 has no pieces: every process loads all of it, whatever their number.

    Raises:
        UsageError: there is no way from the checkpoint's stage to this one.
    """
    if manifest.zero_stage == zero_stage:
        return manifest.world_size != world_size and zero_stage != 0
    if {manifest.zero_stage, zero_stage} <= set(CONVERTIBLE_STAGES):
        return True
    raise UsageError(
        f"the checkpoint of step {manifest.step} was written at ZeRO stage {manifest.zero_stage} and cannot "
        f"go on at stage {zero_stage}: only stages 1, 2 and 3 turn into each other; set train.deepspeed back"
    )


def load_checkpoint(engine: Any, source: Source) -> None:
    """Load weights and optimizer states. All processes call this.

    Raises:
        CheckpointError: DeepSpeed loaded nothing, or not the step the directory's name says.
    """
    path = source.converted or source.checkpoint
    settings = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    kept = {name: getattr(engine.optimizer, name, None) for name in _RECIPES}
    is_universal = source.converted is not None
    with mock.patch.object(engine._config, "load_universal_checkpoint", is_universal):
        loaded, _ = engine.load_checkpoint(str(path.parent), tag=path.name)
    if loaded is None or engine.global_steps != source.step:
        raise CheckpointError(f"{path}: DeepSpeed restored step {engine.global_steps}, not {source.step}")
    # Of a universal checkpoint, ZeRO 3 gives the settings of one group (its weight decay) to all groups, and
    # one tensor with the number of steps, which each would then count up.
    for group, before in zip(engine.optimizer.param_groups, settings):
        group.update(before)
    _keep_recipes(engine.optimizer, kept)
    if engine.zero_optimization():
        _own_steps(engine.optimizer.optimizer)


def _own_steps(optimizer: torch.optim.Optimizer) -> None:
    """Give every state its own number of steps, on the device where the optimizer looks for it."""
    is_fused = optimizer.defaults.get("fused")
    for parameter, state in optimizer.state.items():
        if isinstance(state.get("step"), torch.Tensor):
            device = parameter.device if is_fused else "cpu"
            state["step"] = state["step"].to(device, copy=True)


def _keep_recipes(optimizer: Any, kept: dict[str, Any]) -> None:
    """Put back what the recipe decides; of the loss scaler, its kind (fp16 goes on with the scale it had)."""
    if kept["clip_grad"] is not None:
        optimizer.clip_grad = kept["clip_grad"]
    scaler = kept["loss_scaler"]
    if scaler is not None and type(optimizer.loss_scaler) is not type(scaler):
        optimizer.loss_scaler, optimizer.dynamic_loss_scale = scaler, kept["dynamic_loss_scale"]


def read_state(source: Source, rank: int) -> dict[str, Any]:
    """What a process gave to the saver."""
    return torch.load(source.checkpoint / state_name(rank), weights_only=False)
