"""Masked language modelling with transformers' Trainer and DeepSpeed, as its run_mlm example does it.

    python -m benchmarks.hf_trainer RECIPE OUT        under a launcher, or alone

The opponent of benchmarks.throughput: AutoModelForMaskedLM with SDPA attention, labels for all positions, of
which most are ignored, Trainer's own loop, optimizer, loader and logging. It gets the rows, order, masks,
weights and settings of a recipe, so that its losses must be those of the recipe's run. OUT becomes a JSON
file with the logged losses and the seconds of every step.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import AutoModelForMaskedLM, Trainer, TrainerCallback, TrainingArguments

from pipeline.build import Corpus
from pipeline.config.deepspeed_json import find_template
from pipeline.config.load import find_recipe, parse_recipe, read_settings
from pipeline.config.schema import Recipe
from pipeline.data.masking import IGNORED_LABEL
from pipeline.data.order import rows_of_step
from pipeline.processes.cluster import Cluster


class DenseRows(Dataset):
    """A recipe's rows in the order of training, with a label for every position."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.batcher = Corpus.open(recipe.corpus).batcher(recipe, "train")

    def __len__(self) -> int:
        return self.recipe.train.num_steps * self.recipe.train.global_batch_size

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        """Rows of a batch, made at once."""
        size = self.recipe.train.global_batch_size
        steps = sorted({index // size for index in indices})
        found = {
            step: rows_of_step(step, size, self.batcher.split.num_rows, self.recipe.seed) for step in steps
        }
        rows, epochs = (
            torch.tensor([int(found[index // size][which][index % size]) for index in indices]).numpy()
            for which in (0, 1)
        )
        batch = self.batcher.batch(rows, epochs)
        positions = batch.columns["positions"]  # different ones in each row
        ids = batch.input_ids.scatter(1, positions, batch.columns["replacements"])
        labels = torch.full_like(ids, IGNORED_LABEL).scatter(1, positions, batch.columns["labels"])
        return [{"input_ids": seen, "labels": wanted} for seen, wanted in zip(ids, labels)]


class StepTimes(TrainerCallback):
    """Seconds from one step's end to the next one's."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_arguments: Any, **_settings: Any) -> None:
        self.ends.append(time.perf_counter())


class InOrder(Trainer):
    """Takes the rows as they stand."""

    def _get_train_sampler(self, *_arguments: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def deepspeed_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's DeepSpeed file, as Trainer fills it: its optimizer is Trainer's own."""
    template = json.loads(find_template(recipe.train.deepspeed).read_text(encoding="utf-8"))
    del template["optimizer"]
    blanks = {"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}
    return {**template, **blanks, "zero_allow_untested_optimizer": True}


def training_arguments(recipe: Recipe, cluster: Cluster, directory: Path) -> TrainingArguments:
    train, optimizer = recipe.train, recipe.optimizer
    micro = recipe.micro_batch_size(cluster.world_size)
    on_cuda = cluster.device.type == "cuda"
    return TrainingArguments(
        output_dir=str(directory),
        max_steps=train.num_steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=train.global_batch_size // (micro * cluster.world_size),
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        adam_epsilon=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.gradient_clipping,
        bf16=train.precision == "bf16",
        use_cpu=not on_cuda,
        ddp_backend=None if on_cuda else "gloo",
        deepspeed=deepspeed_settings(recipe),
        # RoBERTa's own loss is a mean already, which Trainer would take for a sum and multiply.
        average_tokens_across_devices=False,
        dataloader_num_workers=recipe.data.num_workers,
        logging_steps=recipe.logging.every_steps,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=recipe.seed,
    )


def main() -> int:
    name, out = sys.argv[1:]
    recipe, problems = parse_recipe(read_settings(find_recipe(name), []))
    assert recipe is not None, problems
    cluster = Cluster.from_environment()
    cluster.start()  # the same backend as ours
    checkpoint = str(recipe.model.checkpoint)
    arguments = training_arguments(recipe, cluster, Path(out).parent / "trainer")
    model = AutoModelForMaskedLM.from_pretrained(checkpoint, attn_implementation="sdpa", dtype=torch.float32)
    times = StepTimes()
    trainer = InOrder(model=model, args=arguments, train_dataset=DenseRows(recipe), callbacks=[times])
    trainer.train()
    if cluster.is_main:
        losses = {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log}
        seconds = [after - before for before, after in zip(times.ends, times.ends[1:])]
        Path(out).write_text(json.dumps({"losses": losses, "step_seconds": seconds}), encoding="utf-8")
    cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
