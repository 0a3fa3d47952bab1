"""The encoder under evaluation: a run of ours, or any Hugging Face directory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_prep.files import sha256_file
from data_prep.tokenizing.probe_texts import PROBE_TEXTS
from pipeline.encoder.families import usable_positions
from pipeline.encoder.model import checkpoint_config
from pipeline.encoder.replaced_token import detector_class, is_detector, without_head
from pipeline.errors import UsageError, UserError
from pipeline.evaluation.encoder_tokenizer import (
    VOCABULARIES,
    encoder_tokenizer,
    longest_text,
    take_padding_of,
)
from pipeline.evaluation.padding import depends_on_padding
from pipeline.evaluation.quiet import quiet_transformers
from pipeline.export import delete_unused, mark_used, write_export
from pipeline.runs.run_dir import RunDir
from pipeline.weights import Checkpoint, TrainedRun, choose_checkpoint, load_trained_run

_MERGES_AND_SETTINGS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PADDED_TOKENS = 5  # of a text on which a model is tried with padding
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Encoder:
    """What is evaluated.

    Attributes:
        path: as the user named it.
        run: the run it belongs to; None for a Hugging Face directory.
        checkpoint: the run's newest good one when it was opened, whatever the run saves later; None for a
            Hugging Face directory.
        device: where it is evaluated.
        corpora: where the user says that the run's corpora are.
    """

    path: Path
    run: RunDir | None
    checkpoint: Checkpoint | None
    device: torch.device
    corpora: tuple[str, ...] = ()

    @staticmethod
    def open(path: str, device: torch.device, corpora: Sequence[str] = ()) -> "Encoder":
        """A run directory or a Hugging Face directory; a UserError says why it is neither."""
        run = RunDir(path)
        if run.holds_run():
            return Encoder(Path(path), run, choose_checkpoint(run), device, tuple(corpora))
        if corpora:
            raise UsageError(f"--corpus {corpora[0]}: {path} is no run and has no corpus; leave it out")
        if (Path(path) / "config.json").is_file():
            return Encoder(Path(path), None, None, device)
        raise UsageError(
            f"{path} holds neither a run (no recipe.yaml) nor a Hugging Face model (no config.json); "
            "name the run_dir of a recipe that was trained, or an exported model"
        )

    @property
    def step(self) -> int | None:
        """Of the checkpoint; None for a Hugging Face directory."""
        return None if self.checkpoint is None else self.checkpoint.step

    @cached_property
    def model_dir(self) -> Path:
        """A Hugging Face directory with model and tokenizer; a run's checkpoint is exported to one.

        Exports stay in RUN/evaluation/, named by step and content, for other evaluations to use, at the same
        time too. One that no evaluation has opened anything from for a day is deleted by the next export.
        """
        if self.run is None or self.checkpoint is None:
            return self.path
        name = f"model-{self.checkpoint.step:08d}-{self.checkpoint.sha256[:12]}"
        directory = self.run.evaluation / name
        mark_used(directory)
        if not directory.is_dir():
            self.run.evaluation.mkdir(exist_ok=True)
            for pattern in ("model-*", ".model-*.partial"):
                delete_unused(self.run.evaluation, pattern)
            write_export(self.load_run(torch.device("cpu")), directory, replace=False)
        return directory

    def load_run(self, device: torch.device) -> TrainedRun:
        """The run it belongs to, with the weights of its checkpoint; only of a run."""
        return load_trained_run(str(self.path), device, self.checkpoint, self.corpora)

    @cached_property
    def config(self) -> PretrainedConfig:
        """The model's configuration; a UsageError if there is none that transformers knows."""
        with self._opening("a model's configuration"):
            return checkpoint_config(str(self.model_dir))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, padding and cutting texts at their end; a UserError if there is none."""
        with self._opening("a tokenizer"):
            # The tokenizer of an export has been compared already.
            tokenizer = encoder_tokenizer(self.model_dir, compare=self.run is None)
        if tokenizer.pad_token is None:
            take_padding_of(tokenizer, self.config)
        return tokenizer

    def offset_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, where it tells which characters a token stands for; else a UsageError."""
        if not self.tokenizer.is_fast:
            raise UsageError(
                f"{self.path}: its tokenizer does not tell which characters a token stands for; save a "
                "fast one (tokenizer.json) beside the model"
            )
        return self.tokenizer

    def padding_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, where it can put texts of several lengths into a batch; else a UsageError."""
        if self.tokenizer.pad_token is None:
            raise UsageError(
                f"{self.path}: neither its tokenizer nor its config.json names a padding token of the "
                'vocabulary, which batches need; write "pad_token" in tokenizer_config.json, or '
                '"pad_token_id" in config.json'
            )
        return self.tokenizer

    def longest_input(self, asked: int | None = None) -> int:
        """`asked`, or what model and tokenizer can take if that is less; in tokens."""
        if getattr(self.config, "max_position_embeddings", None) is None:
            raise UsageError(
                f"{self.path}: the configuration of this {self.config.model_type} model has no longest input "
                "(max_position_embeddings); models without one cannot be evaluated here"
            )
        with self._opening("a tokenizer"):
            longest = min(usable_positions(self.config), longest_text(self.tokenizer, self.model_dir))
        return longest if asked is None else min(asked, longest)

    def open_model(
        self, auto_class: type, *, as_pretrained: bool = False, **options: Any
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """A model of the encoder's weights, in float32 on the device, and what transformers says of them.

        Args:
            auto_class: transformers' class that opens it, such as AutoModel.
            as_pretrained: with the output layer of its pretraining, which `auto_class` must have.
            options: of its from_pretrained.

        Raises:
            UsageError: it cannot be opened, or a weight is not finite.
        """
        with self._opening(auto_class.__name__):
            opener: Any = auto_class
            path: str | None = str(self.model_dir)
            if self.is_detector and not as_pretrained:
                path = None
                opener, options = self._without_head(auto_class, options)
            model, loaded = opener.from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                dtype=torch.float32,
                **options,
            )
        self._check_embeddings(model)
        for name, weight in model.named_parameters():
            if not bool(weight.isfinite().all()):
                raise UsageError(
                    f"{self.path}: the weight {name} holds values that are no finite numbers; name a model "
                    "whose training did not diverge, or copy it again if its file was damaged"
                )
        model = model.to(self.device)
        with self._opening("a model for texts of several lengths"):
            text, pad_id = self.tokenizer(PROBE_TEXTS[0])["input_ids"], self.tokenizer.pad_token_id or 0
            if depends_on_padding(model, text[:_PADDED_TOKENS], pad_id):
                raise UsageError(
                    f"{self.path}: padding changes what a {model.config.model_type} model makes of a text, "
                    "so that batches of texts would be measured wrongly; it cannot be evaluated here"
                )
        return model, loaded

    def _without_head(self, auto_class: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Class and options that open a detector as something else, leaving its head behind.

        transformers would take it for the new head of a fine-tuning that has the same name.
        """
        settings = {name: value for name, value in options.items() if name != "attn_implementation"}
        config = AutoConfig.from_pretrained(
            str(self.model_dir), local_files_only=True, trust_remote_code=False, **settings
        )
        weights = without_head(self.model_dir, self.config)
        rest = {name: value for name, value in options.items() if name not in settings}
        return auto_class._model_mapping[type(config)], {"config": config, "state_dict": weights, **rest}

    def _check_embeddings(self, model: PreTrainedModel) -> None:
        """Refuse a tokenizer with ids that the model has no embedding for."""
        embedding: Any = model.get_input_embeddings()
        num_embeddings = len(embedding.weight)
        size = max(self.tokenizer.get_vocab().values()) + 1
        if size > num_embeddings:
            raise UsageError(
                f"{self.path}: the tokenizer has {size:,} tokens, the model {num_embeddings:,} embeddings; "
                "save the tokenizer that the model was trained with beside it"
            )

    @property
    def is_detector(self) -> bool:
        """Whether it tells which tokens were replaced (ELECTRA) instead of predicting masked ones."""
        return is_detector(self.config)

    def pretrained_model(self, attention: str | None = None) -> PreTrainedModel:
        """The model with the output layer of its pretraining, in float32 and evaluation mode, on the device.

        That is the one for masked tokens or, in a discriminator, the one for replaced tokens.

        Args:
            attention: transformers' name of the implementation; None for its own choice, which is the
                fastest that the family has.

        Raises:
            UsageError: the directory holds no such model, or lacks some of its weights.
        """
        auto_class = detector_class(self.config) if self.is_detector else AutoModelForMaskedLM
        model, loaded = self.open_model(auto_class, as_pretrained=True, attn_implementation=attention)
        if missing := sorted(loaded["missing_keys"]):
            raise UsageError(
                f"{self.path} lacks weights of a masked language model, {missing[0]} for one; name a model "
                "that was pretrained with masked tokens and keeps its output layer"
            )
        return model.eval()

    def identity(self) -> dict[str, object]:
        """What tells it from others whose results lie in the same file."""
        if self.run is not None and self.checkpoint is not None:
            return {
                "step": self.checkpoint.step,
                "checkpoint_sha256": self.checkpoint.sha256,
                "recipe_sha256": sha256_file(self.run.recipe_file),
            }
        patterns = ("config.json", *_WEIGHTS, *VOCABULARIES, *_MERGES_AND_SETTINGS)
        files = {file.name: file for pattern in patterns for file in self.path.glob(pattern)}
        return {"files_sha256": {name: sha256_file(files[name]) for name in sorted(files)}}

    @contextmanager
    def _opening(self, what: str) -> Iterator[None]:
        """Quiet; whatever is wrong with the directory's files is told as one UsageError."""
        if self.run is not None:
            mark_used(self.model_dir)
        try:
            with quiet_transformers():
                yield
        except UserError:
            raise
        # The libraries behind it raise what they like: tokenizers' is a plain Exception.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if "trust_remote_code" in reason:
                raise UsageError(
                    f"{self.path} can only be opened by code of its own (auto_map in its configuration), "
                    "which is never run here; save the model as one of the families of transformers"
                ) from error
            raise UsageError(
                f"{self.path} cannot be opened as {what}: {reason}; copy its files again, "
                "or save it anew with save_pretrained"
            ) from error
