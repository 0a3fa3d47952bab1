"""The weights of a run, read from a checkpoint of any ZeRO stage without an engine."""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data_prep.files import sha256_file
from pipeline.build import Corpus, build_pretraining_module
from pipeline.checkpoints.manifest import MANIFEST_NAME, newest_usable, read_checkpoint_manifest, step_of
from pipeline.config.schema import Recipe
from pipeline.engine import PretrainingModule
from pipeline.errors import CheckpointError
from pipeline.guidance.allocation import Allocation
from pipeline.guidance.run import RunGuidance
from pipeline.objectives import load_objective
from pipeline.objectives.protocol import Objective
from pipeline.runs.located_corpus import read_located_recipe
from pipeline.runs.run_dir import RunDir

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was whole when it was chosen.

    Attributes:
        path: its directory.
        sha256: of its MANIFEST.json, which has the hash of every file. A step does not tell checkpoints
            apart: a run that was taken back comes to the same step with other weights.
    """

    path: Path
    sha256: str

    @property
    def step(self) -> int:
        """Number of steps it was taken after."""
        return step_of(self.path)

    def require(self) -> None:
        """Raise a CheckpointError if it is not there any more, or another one is in its place."""
        try:
            is_same = sha256_file(self.path / MANIFEST_NAME) == self.sha256
        except OSError:
            is_same = False
        if not is_same:
            raise CheckpointError(
                f"{self.path} was deleted or replaced after it had been chosen, as its run trains on; give "
                "the command again for the newest one, or wait until the run has ended"
            )


def choose_checkpoint(run: RunDir) -> Checkpoint:
    """A run's newest good checkpoint, with a warning for each damaged one; a CheckpointError without any."""
    path, damaged = newest_usable(run.checkpoints)
    for damage in damaged:
        logger.warning("damaged checkpoint skipped: %s", damage)
    if path is None:
        raise CheckpointError(f"{run.path} has no checkpoint yet; train it first")
    try:
        return Checkpoint(path, sha256_file(path / MANIFEST_NAME))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); give the command again") from error


@dataclass(frozen=True)
class TrainedRun:
    """A run's model as one of its checkpoints has it; `recipe` has its corpora where they are now."""

    run: RunDir
    recipe: Recipe
    corpus: Corpus
    module: PretrainingModule
    step: int

    @property
    def objective(self) -> Objective:
        """What it learned."""
        return load_objective(self.recipe.objective.kind)

    @property
    def allocation(self) -> Allocation:
        """The guided heads of the network that is evaluated; of no layer where none is."""
        guidance = next((one for one in self.module.regularizers if one.name == "guidance"), None)
        return guidance.guide.allocation if isinstance(guidance, RunGuidance) else Allocation(())


def load_trained_run(
    path: str,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    corpora: Sequence[str] = (),
) -> TrainedRun:
    """Open a run and load its weights in float32 onto `device`, in evaluation mode.

    Args:
        path: run directory.
        device: where to.
        checkpoint: of this run; None for its newest good one. A CheckpointError if it is gone.
        corpora: where the user says that the run's corpora are, see `read_located_recipe`.
    """
    run = RunDir.open(path)
    recipe = read_located_recipe(run, corpora)
    chosen = checkpoint or choose_checkpoint(run)
    corpus = Corpus.open(recipe.corpus)
    module = build_pretraining_module(recipe, corpus)
    _load_all(module, _read_unchanged(chosen), chosen.path)
    return TrainedRun(run, recipe, corpus, module.to(device).eval(), chosen.step)


def _read_unchanged(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Its weights; a CheckpointError if a run that trains on took it away before they were read."""
    try:
        weights = read_weights(checkpoint.path)
    except Exception:
        checkpoint.require()
        raise
    checkpoint.require()
    return weights


def _load_all(module: PretrainingModule, weights: dict[str, torch.Tensor], checkpoint: Path) -> None:
    """Load weights so that no parameter that was trained keeps its initial value.

    A tied parameter is stored under one of its names; loading that name sets it. Tables of fixed positions
    are parameters that are not trained, and not all checkpoints have them.
    """
    module.load_state_dict(weights, strict=False)
    loaded = {
        id(parameter)
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if name in weights
    }
    missing = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and id(parameter) not in loaded
    ]
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
