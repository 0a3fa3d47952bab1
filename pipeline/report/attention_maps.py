"""The report's sentence: its tokens, what the heads look at in it and what they should look at."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from data_prep.format import TOKENIZER_NAME
from data_prep.tokenizing.directory import open_directory
from pipeline.data.corpus import CorpusSplit
from pipeline.data.documents import Documents
from pipeline.evaluation.attention_snapshot import Snapshot, pick_sentence, read_snapshots, record_attention
from pipeline.guidance.bias import is_target
from pipeline.guidance.patterns import Pattern
from pipeline.guidance.targets import make_targets
from pipeline.weights import TrainedRun


@dataclass(frozen=True)
class SentenceAttention:
    """Tokens (N,) of a sentence and the attention of every head, (layers, heads, N, N), by step.

    The last snapshot is that of the weights the report is made from.
    """

    token_ids: npt.NDArray[np.int64]
    tokens: list[str]
    snapshots: list[Snapshot]


def attend_to_sentence(trained: TrainedRun) -> SentenceAttention:
    """Run the model on a short held-out piece of text, and read what it looked at earlier."""
    split = CorpusSplit(trained.corpus.path, "valid", trained.corpus.manifest)
    token_ids = pick_sentence(split, trained.corpus.vocabulary.sep_id)
    now = record_attention(trained.module, trained.module, token_ids)
    kept = [
        snapshot
        for snapshot in read_snapshots(trained.run.attention)
        if snapshot.step < trained.step and snapshot.probs.shape == now.shape
    ]
    tokenizer = open_directory(trained.corpus.path / TOKENIZER_NAME).tokenizer
    tokens = [
        tokenizer.decode([token_id], skip_special_tokens=False).strip() or "_" for token_id in token_ids
    ]
    return SentenceAttention(token_ids, tokens, [*kept, Snapshot(trained.step, now)])


def pattern_map(pattern: Pattern, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The target matrix of a pattern in a sentence (N,), (N, N): what a perfectly guided head would show."""
    length = len(token_ids)
    documents = Documents.one_per_row(torch.tensor([length]), length)
    targets = make_targets([pattern], torch.from_numpy(token_ids)[None], documents, as_published=False)
    chosen = is_target(targets, 0)[0].float()
    return (chosen / chosen.sum(1, keepdim=True).clamp(min=1)).numpy()
