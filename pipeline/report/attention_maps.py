"""What the heads of a trained model look at in one real sentence."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoTokenizer, PreTrainedModel

from data_prep.format import TOKENIZER_NAME
from pipeline.attention import install_tap
from pipeline.data.corpus import CorpusSplit
from pipeline.guidance.patterns import PatternHeads
from pipeline.weights import TrainedRun

_MIN_TOKENS, _MAX_TOKENS = 12, 28  # legible in a figure


class AttentionRecorder:
    """An attention tap that keeps every layer's probabilities; for a single short sentence."""

    def __init__(self) -> None:
        """Nothing recorded."""
        self.probs: dict[int, npt.NDArray[np.float32]] = {}

    def observe(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, scaling: float, mask: torch.Tensor | None
    ) -> None:
        """See AttentionTap; the sentence has no padding and fits any local window."""
        scores = query[0].float() @ key[0].float().transpose(-1, -2) * scaling
        self.probs[layer] = scores.softmax(-1).cpu().numpy()


@dataclass(frozen=True)
class SentenceAttention:
    """Tokens (N,) of a sentence and the attention of every head, (layers, heads, N, N)."""

    tokens: list[str]
    probs: npt.NDArray[np.float32]


def attend_to_sentence(trained: TrainedRun) -> SentenceAttention:
    """Run the model on a short held-out piece of text."""
    token_ids = _pick_sentence(CorpusSplit(trained.corpus.path, "valid", trained.corpus.manifest), trained)
    recorder = AttentionRecorder()
    model: PreTrainedModel = trained.module.model
    install_tap(model, recorder)
    try:
        with torch.no_grad():
            model.base_model(torch.from_numpy(token_ids)[None])
    finally:
        install_tap(model, trained.module.guide)
    path = trained.corpus.path / TOKENIZER_NAME
    tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    tokens = [str(tokenizer.decode([token_id])).strip() or "_" for token_id in token_ids]
    return SentenceAttention(tokens, np.stack([recorder.probs[layer] for layer in sorted(recorder.probs)]))


def pattern_map(group: PatternHeads, length: int) -> npt.NDArray[np.float32]:
    """The target matrix of a pattern, (N, N): what a perfectly guided head would show."""
    block = torch.zeros(1, 1, length, length)
    group.pattern.subtract(block, first_row=0)
    return -block[0, 0].numpy()


def _pick_sentence(split: CorpusSplit, trained: TrainedRun) -> npt.NDArray[np.int64]:
    """The beginning of the first held-out row, up to its first full stop where that has a legible length."""
    input_ids, lengths = split.read(np.arange(1))
    row = input_ids[0, : min(int(lengths[0]), _MAX_TOKENS - 1)]
    separators = np.flatnonzero(row == trained.corpus.vocabulary.sep_id)
    if len(separators) and separators[0] >= _MIN_TOKENS:
        row = row[: separators[0]]
    return np.append(row, trained.corpus.vocabulary.sep_id)
