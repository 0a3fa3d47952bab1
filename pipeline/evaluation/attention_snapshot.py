"""What every head looks at in one real sentence, now and, kept in files, earlier in training."""

import logging
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.corpus import CorpusSplit
from pipeline.encoder.attention import AttentionInputs, add_to_mask, tapped
from pipeline.encoder.attention_scope import spans_mask
from pipeline.engine import PretrainingModule

logger = logging.getLogger(__name__)
_MIN_TOKENS, _MAX_TOKENS = 12, 28  # legible in a figure
_FILE_NAME = re.compile(r"step-(\d{8,})\.npz")


class AttentionRecorder:
    """An attention tap that keeps its layer's probabilities (heads, N, N); for a single short sentence."""

    adds_bias = False
    needs_hidden = False

    def __init__(self) -> None:
        """Nothing recorded."""
        self.probs = np.zeros((0, 0, 0), np.float32)

    def observe(self, inputs: AttentionInputs) -> None:
        """See AttentionTap."""
        scores = inputs.query.float() @ inputs.key.float().transpose(-1, -2) * inputs.scaling
        mask = inputs.mask if inputs.spans is None else spans_mask(inputs.spans)
        if mask is not None:  # a local window, or documents
            scores += add_to_mask(mask, torch.zeros_like(scores))
        self.probs = scores.softmax(-1)[0].cpu().numpy()

    def bias(self, _query: torch.Tensor) -> None:
        """See AttentionTap: nothing."""


@dataclass(frozen=True)
class Snapshot:
    """Attention of every head at a step of the run, (layers, heads, N, N)."""

    step: int
    probs: npt.NDArray[np.float32]


def snapshot_steps(num_steps: int) -> tuple[int, int]:
    """Steps at which a run keeps a snapshot: its start and after a hundredth. The end is in its weights."""
    return 0, max(1, round(num_steps / 100))


def pick_sentence(split: CorpusSplit, sep_id: int) -> npt.NDArray[np.int64]:
    """The beginning of the first row, up to its first document's end where that has a legible length."""
    rows = split.read(np.arange(1))
    row = rows.input_ids[0, : min(int(rows.lengths[0]), _MAX_TOKENS - 1)]
    separators = np.flatnonzero(row == sep_id)
    if len(separators) and separators[0] >= _MIN_TOKENS:
        row = row[: separators[0]]
    return np.append(row, sep_id)


@torch.no_grad()
def record_attention(
    engine: Any, module: PretrainingModule, token_ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Attention of the evaluated network in a sentence (N,), (layers, heads, N, N). All processes call this.

    Args:
        engine: the module, or an engine around it.
        module: with the network, whose attention must be one that can be watched.
        token_ids: the sentence.
    """
    model, was_training = module.model, engine.training
    recorders = [AttentionRecorder() for _ in range(model.config.num_hidden_layers)]
    module.rest()
    engine.eval()
    inputs = torch.from_numpy(token_ids)[None].to(next(model.parameters()).device)
    try:
        # Not worth a graph of its own, in a run whose blocks are compiled.
        with tapped(model, [[recorder] for recorder in recorders]), torch.compiler.set_stance("force_eager"):
            model.base_model(inputs)
    finally:
        engine.train(was_training)
    return np.stack([recorder.probs for recorder in recorders])


def write_snapshot(directory: Path, snapshot: Snapshot) -> None:
    """Keep a snapshot as step-NNNNNNNN.npz."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f".step-{snapshot.step:08d}.partial.npz"
    np.savez_compressed(partial, probs=snapshot.probs.astype(np.float16))
    partial.rename(directory / f"step-{snapshot.step:08d}.npz")


def read_snapshots(directory: Path) -> list[Snapshot]:
    """The snapshots kept, by step; files that are damaged are left out."""
    snapshots = []
    for path in sorted(directory.glob("step-*.npz")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            continue
        try:
            with np.load(path) as arrays:
                snapshots.append(Snapshot(int(match[1]), arrays["probs"].astype(np.float32)))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            logger.warning("%s is damaged; the report does without it", path)
    return snapshots
