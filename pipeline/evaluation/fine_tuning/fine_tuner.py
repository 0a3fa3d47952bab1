"""Fine-tuning the encoder under a new head with transformers' Trainer: what glue, classify and tag share.

All weights are trained, by AdamW with a weight decay of 0.01 and gradients clipped to a norm of 1; the
learning rate rises over 6 % of the steps and falls linearly to 0, as RoBERTa's on GLUE (Liu et al. 2019,
appendix C). Dropout is what the model's configuration says. The model after the last step is scored: no epoch
is picked by its scores.

The tasks' learning rate of 5e-5 is usual for encoders of base size. Small ones may need more: one of 6 layers
x 192, pretrained for 100 steps, ended no better than a constant answer after 3 epochs of 2,000 examples
of SST-2 at 5e-5 (accuracy 0.51, one seed), and at 0.60 with 3e-4.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from pipeline.errors import DivergedError, UsageError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.task import Settings

Features = dict[str, Any]  # of one example: input_ids, attention_mask, labels

_HEADS = {  # what a head of each kind predicts for: (its class, what puts a batch together)
    "text": (AutoModelForSequenceClassification, DataCollatorWithPadding),
    "word": (AutoModelForTokenClassification, DataCollatorForTokenClassification),
}
_WARMUP_SHARE = 0.06
_WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class FineTuner:
    """An encoder, and the head it is given.

    Attributes:
        encoder: every fine-tuning starts from its weights.
        settings: epochs, learning_rate, batch_size and max_length are read.
        per: "text" for a label per example, "word" for one per token.
        num_labels: 1 for a number instead of a class, learned by its squared error.
    """

    encoder: Encoder
    settings: Settings
    per: str
    num_labels: int

    @cached_property
    def max_length(self) -> int:
        """Tokens to cut examples to: what the settings say, or the model's longest input if that is less."""
        return self.encoder.longest_input(self.settings.max_length)

    @cached_property
    def has_segments(self) -> bool:
        """Whether the model tells the second text of a pair by an embedding of its own."""
        names = self.encoder.tokenizer.model_input_names
        return "token_type_ids" in names and getattr(self.encoder.config, "type_vocab_size", 1) > 1

    def logits(
        self, train: Sequence[Features], evaluated: Sequence[Sequence[Features]], seed: int
    ) -> list[np.ndarray]:
        """Fine-tune, and predict; the same numbers for the same arguments on the same machine.

        Args:
            train: examples with labels.
            evaluated: lists of examples to predict for.
            seed: of the head's initial weights, the order of examples and dropout.

        Returns:
            For each list, in its order, [examples, labels], or [examples, tokens, labels] with -100 behind
            the end of shorter examples.

        Raises:
            UsageError: The model cannot be fine-tuned.
            DivergedError: A weight is not finite any more.
        """
        with self._trained(self._model_under_new_head(seed), train, seed) as trainer:
            return [
                np.asarray(trainer.predict(examples).predictions)  # type: ignore[arg-type]
                for examples in evaluated
            ]

    def model(self, train: Sequence[Features], seed: int) -> PreTrainedModel:
        """The fine-tuned model itself, in evaluation mode; see `logits`."""
        model = self._model_under_new_head(seed)
        with self._trained(model, train, seed):
            return model.eval()

    @contextmanager
    def _trained(self, model: PreTrainedModel, train: Sequence[Features], seed: int) -> Iterator[Trainer]:
        with _deterministic(), TemporaryDirectory() as directory:
            trainer = self._trainer(directory, model, train, seed)
            trainer.train()
            # The loss does not tell: the Trainer reports the last finite one in the place of others.
            if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
                raise DivergedError(
                    f"fine-tuning {self.encoder.path} with seed {seed} diverged: its weights are no numbers "
                    f"any more; write a --learning-rate below {self.settings.learning_rate:g}"
                )
            yield trainer

    def _trainer(
        self, directory: str, model: PreTrainedModel, train: Sequence[Features], seed: int
    ) -> Trainer:
        device, settings = self.encoder.device, self.settings
        assert settings.epochs is not None
        assert settings.learning_rate is not None
        assert settings.batch_size is not None
        _, collator = _HEADS[self.per]
        num_steps = settings.epochs * math.ceil(len(train) / settings.batch_size)
        arguments = TrainingArguments(
            output_dir=directory,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=math.ceil(_WARMUP_SHARE * num_steps),
            weight_decay=_WEIGHT_DECAY,
            max_grad_norm=1.0,
            per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=settings.batch_size,
            seed=seed,
            data_seed=seed,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,  # in favour of _Progress, which prints no dictionaries
        )
        # Otherwise every visible GPU would take `batch_size` examples per step.
        if arguments.n_gpu > 1:
            arguments._n_gpu = 1
        trainer = Trainer(
            model=model,
            args=arguments,
            data_collator=collator(self.encoder.padding_tokenizer()),
            train_dataset=train,  # a list does: it has a length and is indexed
            callbacks=[_Progress()],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _model_under_new_head(self, seed: int) -> PreTrainedModel:
        """The encoder's weights under a head that the seed decides."""
        set_seed(seed)  # what was drawn before, in another fine-tuning, must not matter
        auto_class, _ = _HEADS[self.per]
        kind = "regression" if self.num_labels == 1 else "single_label_classification"
        options: dict[str, Any] = {"problem_type": kind} if self.per == "text" else {}
        model, loaded = self.encoder.open_model(auto_class, num_labels=self.num_labels, **options)
        # Weights that are not found are drawn at random, which is right for a head only.
        inside = f"{model.base_model_prefix}."
        missing = [
            name for name in loaded["missing_keys"] if name.startswith(inside) and "pooler" not in name
        ]
        if missing:
            raise UsageError(
                f"{self.encoder.model_dir} cannot be fine-tuned: its weights lack {sorted(missing)[0]} and "
                f"{len(missing) - 1} more; save the whole encoder there with save_pretrained"
            )
        return model


@dataclass(frozen=True)
class Tokenized:
    """Examples as the model takes them, and how many were too long."""

    features: list[Features]
    num_cut: int


def tokenize_texts(
    tuner: FineTuner, texts: Sequence[Sequence[str]], labels: Sequence[int | float]
) -> Tokenized:
    """Examples of one text or a pair of texts; of a pair the longer is cut first."""
    tokenized = tuner.encoder.offset_tokenizer()(
        [parts[0] for parts in texts],
        [parts[1] for parts in texts] if len(texts[0]) > 1 else None,
        truncation=True,
        max_length=tuner.max_length,
        return_token_type_ids=tuner.has_segments,
    )
    features = [
        {**{name: values[example] for name, values in tokenized.items()}, "labels": label}
        for example, label in enumerate(labels)
    ]
    return Tokenized(features, sum(bool(encoding.overflowing) for encoding in tokenized.encodings))


class _Progress(TrainerCallback):
    """A bar of the steps, gone when they are done; none where nobody watches."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = tqdm(total=state.max_steps, unit="step", leave=False, disable=None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()


@contextmanager
def _deterministic() -> Iterator[None]:
    """With kernels on CUDA that add in a fixed order; the Trainer's own switch also makes each wait.

    Where torch would only warn, memory-efficient attention goes on to add in any order.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned_only)
