"""The `export` command: a Hugging Face directory that opens anywhere transformers does."""

import contextlib
import errno
import glob
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from data_prep.files import partial_of
from data_prep.format import TOKENIZER_NAME
from data_prep.tokenizing.directory import TokenizerDirectory, open_directory
from data_prep.tokenizing.probe_texts import PROBE_TEXTS
from pipeline.data.batches import evaluation_batches
from pipeline.data.corpus import CorpusSplit
from pipeline.encoder.families import usable_positions
from pipeline.errors import CheckpointError, UsageError
from pipeline.evaluation.quiet import quiet_transformers
from pipeline.runs.run_dir import RunDir
from pipeline.tokenizer import auto_tokenizer, first_difference, row_texts
from pipeline.weights import TrainedRun, load_trained_run

_CHECKED_ROWS = 4
_UNUSED_SECONDS = 24 * 3600.0


def export_run(path: str, out: str | None, corpora: Sequence[str] = (), network: str | None = None) -> str:
    """Write the newest good checkpoint of a run as model, configuration and tokenizer; returns what to tell.

    Args:
        path: run directory.
        out: directory to write; None for RUN/export, which an earlier export may fill.
        corpora: where the user says that the run's corpora are.
        network: of an objective with several, its name; None for the one that is evaluated.
    """
    run = RunDir.open(path)
    target = Path(out).resolve() if out is not None else run.export
    if out is None and network is not None:
        target = run.export.with_name(f"{run.export.name}-{network}")
    in_the_way = UsageError(f"--out {out} exists and is no empty directory; name a new one")
    if out is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise in_the_way
    trained = load_trained_run(path, torch.device("cpu"), corpora=corpora)
    if network is not None and network not in (names := trained.module.objective.exports()):
        raise UsageError(f"--network {network}: {path} has {', '.join(names)}; write one of them")
    if not write_export(trained, target, network, replace=out is None):
        raise in_the_way
    checked = f"same logits as the run on {_CHECKED_ROWS} rows, and the same tokens"
    return f"exported step {trained.step} of {path} to {target}: {checked}"


def write_export(trained: TrainedRun, target: Path, network: str | None = None, *, replace: bool) -> bool:
    """Write a network of a run as a Hugging Face directory; False if there is one already.

    It is opened again the way a user will and must give the run's logits exactly; only then does it take
    its place. Other processes may write the same directory: the first one's stays, unless `replace`.
    `network` None is the one that is evaluated.
    """
    delete_unused(target.parent, f".{glob.escape(target.name)}.*.partial")
    partial = partial_of(target)
    exports = trained.module.objective.exports()
    name, auto_class = exports[network] if network is not None else next(iter(exports.values()))
    model = trained.module.networks[name]
    try:
        with quiet_transformers():
            tokenizer = _write(trained, model, partial)
            trained.module.rest()
            _check_logits(trained, model, auto_class, partial)
            _check_tokenizer(trained, tokenizer, partial)
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


def _write(trained: TrainedRun, model: PreTrainedModel, directory: Path) -> TokenizerDirectory:
    """Write model and tokenizer; returns the latter as the run has it."""
    model.save_pretrained(str(directory))
    config = model.config
    tokenizer = open_directory(trained.corpus.path / TOKENIZER_NAME).framed()
    # A model may have no embedding for the second text of a pair, or for a type that cls has alone.
    if getattr(config, "type_vocab_size", 0) < max(2, tokenizer.num_token_types):
        tokenizer = tokenizer.without_token_types()
    tokenizer.write(directory, usable_positions(config))
    return tokenizer


def _check_tokenizer(trained: TrainedRun, tokenizer: TokenizerDirectory, directory: Path) -> None:
    """Rows of the corpus, decoded and encoded again, must get the run's ids from transformers."""
    split = CorpusSplit(trained.corpus.path, "valid", trained.corpus.manifest)
    rows = split.read(np.arange(min(_CHECKED_ROWS, split.num_rows)))
    texts = [*PROBE_TEXTS, *row_texts(tokenizer, rows.input_ids)]
    difference = first_difference(tokenizer, auto_tokenizer(str(directory)), texts)
    if difference is not None:
        raise CheckpointError(f"the exported tokenizer, opened by transformers, is another one: {difference}")


@torch.no_grad()
def _check_logits(trained: TrainedRun, model: PreTrainedModel, auto_class: Any, directory: Path) -> None:
    """The model, opened again, must give the run's logits."""
    reopened = auto_class.from_pretrained(str(directory), local_files_only=True).eval()
    batcher = trained.corpus.batcher(trained.recipe, "valid")
    batch = next(evaluation_batches(batcher, _CHECKED_ROWS, _CHECKED_ROWS, rank=0, world_size=1))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask()}
    difference = (reopened(**inputs).logits - model(**inputs).logits).abs().max().item()
    if not difference <= 0.0:  # also when it is not a number
        raise CheckpointError(f"the exported model's logits differ from the run's by up to {difference:g}")
