"""The `export` command: a Hugging Face directory that opens anywhere transformers does."""

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from data_prep.format import TOKENIZER_NAME
from pipeline.data.batches import evaluation_batches
from pipeline.encoder.model import usable_positions
from pipeline.errors import CheckpointError, UsageError
from pipeline.guidance.schedule import GuidedStep
from pipeline.weights import TrainedRun, load_trained_run

_CHECKED_ROWS = 4


def export_run(path: str, out: str | None) -> str:
    """Write the newest good checkpoint of a run as model, configuration and tokenizer; returns what to tell.

    The directory is opened again the way a user will and must give the run's logits exactly; only then
    does it take its place.

    Args:
        path: run directory.
        out: directory to write; None for RUN/export, which an earlier export may fill.
    """
    trained = load_trained_run(path, torch.device("cpu"))
    target = Path(out).resolve() if out is not None else trained.run.export
    if out is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"--out {out} exists and is no empty directory; name a new one")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write(trained, partial)
    difference = _largest_difference(trained, partial)
    if not difference <= 0.0:  # also when it is not a number
        raise CheckpointError(f"the exported model's logits differ from the run's by up to {difference:g}")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    checked = f"same logits as the run on {_CHECKED_ROWS} rows"
    return f"exported step {trained.step} of {path} to {target}: {checked}"


def _write(trained: TrainedRun, directory: Path) -> None:
    disable_progress_bar()
    trained.module.model.save_pretrained(str(directory))
    source = trained.corpus.path / TOKENIZER_NAME
    tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=True)
    tokenizer.model_max_length = usable_positions(trained.module.model.config)
    tokenizer.save_pretrained(str(directory))
    # The same bytes, not the same content written anew: their hash is the tokenizer's identity.
    shutil.copyfile(source / "tokenizer.json", directory / "tokenizer.json")


@torch.no_grad()
def _largest_difference(trained: TrainedRun, directory: Path) -> float:
    reopened = AutoModelForMaskedLM.from_pretrained(str(directory), local_files_only=True).eval()
    batcher = trained.corpus.batcher(trained.recipe, "valid")
    batch = next(evaluation_batches(batcher, _CHECKED_ROWS, _CHECKED_ROWS, rank=0, world_size=1))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask()}
    trained.module.guide.watch(GuidedStep(), None, training=False)
    return (reopened(**inputs).logits - trained.module.model(**inputs).logits).abs().max().item()
