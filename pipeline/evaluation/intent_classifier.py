"""Fine-tuning an encoder to classify sentences."""

import math
import tempfile
from collections.abc import Sequence

from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from pipeline.errors import DivergedError
from pipeline.evaluation.arrays import IntArray
from pipeline.evaluation.embeddings import load_pretrained, longest_input
from pipeline.evaluation.encoder import Encoder

_WARMUP_SHARE = 0.06  # of the steps, as BERT and RoBERTa are fine-tuned


def fine_tune_classifier(
    encoder: Encoder,
    sentences: Sequence[str],
    labels: IntArray,
    *,
    seed: int,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    max_length: int,
) -> PreTrainedModel:
    """The encoder with a classification head, after its last epoch; a function of the arguments.

    Learning rate: a short warm-up, then linearly to zero. Nothing is kept on disk.

    Args:
        encoder: where it starts.
        sentences: N of them.
        labels: their classes 0 ... C-1, (N,).
        seed: of the head's weights, of dropout and of the order of the sentences.
        epochs: passes over them.
        learning_rate: peak.
        batch_size: sentences per step.
        max_length: longer sentences are cut to so many tokens.

    Raises:
        DivergedError: the weights are no numbers any more.
    """
    set_seed(seed)  # before the head is made
    num_classes = int(labels.max()) + 1
    model = load_pretrained(encoder, AutoModelForSequenceClassification, num_labels=num_classes)
    cut = longest_input(model, encoder.tokenizer, max_length)
    ids = encoder.tokenizer(list(sentences), truncation=True, max_length=cut)["input_ids"]
    examples = [{"input_ids": row, "labels": int(label)} for row, label in zip(ids, labels)]
    num_steps = math.ceil(epochs * math.ceil(len(examples) / batch_size))
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            output_dir=directory,
            seed=seed,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            warmup_steps=math.ceil(_WARMUP_SHARE * num_steps),
            per_device_train_batch_size=batch_size,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=encoder.device.type == "cpu",
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            data_collator=DataCollatorWithPadding(encoder.tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    # The loss does not tell: the Trainer reports the last finite one in the place of others.
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise DivergedError(
            f"fine-tuning with seed {seed} diverged: its weights are no numbers any more; try a "
            f"--learning-rate below {learning_rate:g}"
        )
    return model.eval()
