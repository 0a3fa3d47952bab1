"""The encoder under evaluation: a run of ours, or any Hugging Face directory."""

import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from data_prep.files import sha256_file
from pipeline.checkpoints.manifest import newest_usable, step_of
from pipeline.errors import CheckpointError, UsageError
from pipeline.export import export_run
from pipeline.runs.run_dir import RunDir

logger = logging.getLogger(__name__)

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


@dataclass(frozen=True)
class Encoder:
    """What is evaluated.

    Attributes:
        path: as the user named it.
        run: the run it belongs to; None for a Hugging Face directory.
        step: of the run's newest good checkpoint; None for a Hugging Face directory.
        device: where it is evaluated.
    """

    path: Path
    run: RunDir | None
    step: int | None
    device: torch.device

    @staticmethod
    def open(path: str, device: torch.device) -> "Encoder":
        """A run directory or a Hugging Face directory; a UserError says why it is neither."""
        run = RunDir(path)
        if run.holds_run():
            checkpoint, damaged = newest_usable(run.checkpoints)
            for damage in damaged:
                logger.warning("damaged checkpoint skipped: %s", damage)
            if checkpoint is None:
                raise CheckpointError(f"{path} has no checkpoint yet; train it first")
            return Encoder(Path(path), run, step_of(checkpoint), device)
        if (Path(path) / "config.json").is_file():
            return Encoder(Path(path), None, None, device)
        raise UsageError(
            f"{path} holds neither a run (no recipe.yaml) nor a Hugging Face model (no config.json); "
            "name the run_dir of a recipe that was trained, or an exported model"
        )

    @cached_property
    def model_dir(self) -> Path:
        """A Hugging Face directory with model and tokenizer; a run's checkpoint is exported to one.

        The export stays in RUN/evaluation/ until a later step of the run is evaluated.
        """
        if self.run is None:
            return self.path
        directory = self.run.evaluation / f"model-{self.step:08d}"
        if not directory.is_dir():
            self.run.evaluation.mkdir(exist_ok=True)
            for older in self.run.evaluation.glob("model-*"):
                shutil.rmtree(older)
            export_run(str(self.path), str(directory))
        return directory

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, padding and cutting at the model's longest input; a UsageError if there is none."""
        # Without one transformers makes a tokenizer of the model's kind that knows no word.
        if not any(any(self.model_dir.glob(name)) for name in _VOCABULARIES):
            raise UsageError(
                f"{self.model_dir} has no tokenizer (no {' or '.join(_VOCABULARIES)}); save there the one "
                "the model was trained with, with its save_pretrained"
            )
        return AutoTokenizer.from_pretrained(str(self.model_dir), local_files_only=True)

    def masked_lm(self, attention: str = "sdpa") -> PreTrainedModel:
        """The model with its masked-token output layer, in float32 and evaluation mode on the device.

        Args:
            attention: transformers' name of the implementation.

        Raises:
            UsageError: the directory holds no such model, or lacks some of its weights.
        """
        try:
            model, loading = AutoModelForMaskedLM.from_pretrained(
                str(self.model_dir),
                local_files_only=True,
                dtype=torch.float32,
                attn_implementation=attention,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.path}: no masked language model can be opened ({error})") from error
        if missing := sorted(loading["missing_keys"]):
            raise UsageError(
                f"{self.path} lacks weights of a masked language model, {missing[0]} for one; name a model "
                "that was pretrained with masked tokens and keeps its output layer"
            )
        return model.to(self.device).eval()

    def identity(self) -> dict[str, object]:
        """What tells it from others whose results lie in the same file."""
        if self.run is not None:
            return {"step": self.step, "recipe_sha256": sha256_file(self.run.recipe_file)}
        weights = sorted(self.path.glob("*.safetensors"))
        return {"weights_sha256": [sha256_file(file) for file in weights]}
