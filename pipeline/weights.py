"""The weights of a run, read from a checkpoint of any ZeRO stage without an engine."""

import contextlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.build import Corpus, build_pretraining_module
from pipeline.checkpoints.manifest import newest_usable, read_checkpoint_manifest, step_of
from pipeline.config.schema import Recipe
from pipeline.engine import PretrainingModule
from pipeline.errors import CheckpointError
from pipeline.runs.run_dir import RunDir

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRun:
    """A run's model as its newest good checkpoint has it."""

    run: RunDir
    recipe: Recipe
    corpus: Corpus
    module: PretrainingModule
    step: int


def load_trained_run(path: str, device: torch.device) -> TrainedRun:
    """Open a run and load its weights in float32 onto `device`, in evaluation mode."""
    run = RunDir.open(path)
    recipe = run.read_recipe()
    checkpoint, damaged = newest_usable(run.checkpoints)
    for damage in damaged:
        logger.warning("damaged checkpoint skipped: %s", damage)
    if checkpoint is None:
        raise CheckpointError(f"{run.path} has no checkpoint yet; train it first")
    corpus = Corpus.open(recipe.corpus)
    module = build_pretraining_module(recipe, corpus)
    _load_all(module, read_weights(checkpoint), checkpoint)
    return TrainedRun(run, recipe, corpus, module.to(device).eval(), step_of(checkpoint))


def _load_all(module: PretrainingModule, weights: dict[str, torch.Tensor], checkpoint: Path) -> None:
    """Load weights so that no parameter keeps its initial value.

    A tied parameter is stored under one of its names; loading that name sets it.
    """
    module.load_state_dict(weights, strict=False)
    loaded = {
        id(parameter)
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if name in weights
    }
    missing = [name for name, parameter in module.named_parameters() if id(parameter) not in loaded]
    if missing:
        raise CheckpointError(
            f"{checkpoint} holds no weights for {', '.join(missing)}: not a checkpoint of this recipe"
        )


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All parameters by name, in float32: the full-precision copies where the run kept any."""
    if read_checkpoint_manifest(checkpoint).zero_stage == 0:
        path = checkpoint / "mp_rank_00_model_states.pt"
        # The manifest has vouched for the file; DeepSpeed's own loader unpickles it just so.
        weights = torch.load(path, map_location="cpu", weights_only=False)["module"]
    else:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        # It prints and draws its progress.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            weights = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    return {name: tensor.float() for name, tensor in weights.items()}
