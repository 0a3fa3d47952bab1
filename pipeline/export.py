"""The `export` command: a Hugging Face directory that opens anywhere transformers does."""

import contextlib
import errno
import glob
import os
import shutil
import time
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from data_prep.files import partial_of
from data_prep.format import TOKENIZER_NAME
from pipeline.data.batches import evaluation_batches
from pipeline.encoder.model import usable_positions
from pipeline.errors import CheckpointError, UsageError
from pipeline.evaluation.quiet import quiet_transformers
from pipeline.guidance.schedule import GuidedStep
from pipeline.runs.run_dir import RunDir
from pipeline.weights import TrainedRun, load_trained_run

_CHECKED_ROWS = 4
_UNUSED_SECONDS = 24 * 3600.0


def export_run(path: str, out: str | None) -> str:
    """Write the newest good checkpoint of a run as model, configuration and tokenizer; returns what to tell.

    Args:
        path: run directory.
        out: directory to write; None for RUN/export, which an earlier export may fill.
    """
    target = Path(out).resolve() if out is not None else RunDir.open(path).export
    in_the_way = UsageError(f"--out {out} exists and is no empty directory; name a new one")
    if out is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise in_the_way
    trained = load_trained_run(path, torch.device("cpu"))
    if not write_export(trained, target, replace=out is None):
        raise in_the_way
    checked = f"same logits as the run on {_CHECKED_ROWS} rows"
    return f"exported step {trained.step} of {path} to {target}: {checked}"


def write_export(trained: TrainedRun, target: Path, *, replace: bool) -> bool:
    """Write a run's model as a Hugging Face directory; False if there is one already.

    It is opened again the way a user will and must give the run's logits exactly; only then does it take
    its place. Other processes may write the same directory: the first one's stays, unless `replace`.
    """
    delete_unused(target.parent, f".{glob.escape(target.name)}.*.partial")
    partial = partial_of(target)
    try:
        with quiet_transformers():
            _write(trained, partial)
            difference = _largest_difference(trained, partial)
        if not difference <= 0.0:  # also when it is not a number
            raise CheckpointError(
                f"the exported model's logits differ from the run's by up to {difference:g}"
            )
        if replace:
            shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def mark_used(directory: Path) -> None:
    """Keep `delete_unused` off a directory for a day."""
    with contextlib.suppress(OSError):  # of somebody else, or read-only
        os.utime(directory)


def delete_unused(parent: Path, pattern: str) -> None:
    """Delete directories that nobody has written or marked as used for a day: no process works with them."""
    for directory in parent.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - directory.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(directory)


def _write(trained: TrainedRun, directory: Path) -> None:
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
