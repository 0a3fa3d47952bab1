"""Texts -> token ids in worker processes, results in the order of the texts."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from data_prep.format import Split
from data_prep.parallel import map_in_order
from data_prep.tokenizer import open_tokenizer

_worker_tokenizer: Tokenizer | None = None


class Batch(NamedTuple):
    """Documents encoded together, and the split each belongs to."""

    texts: list[str]
    splits: list[Split]


def encode_in_order(
    batches: Iterable[Batch], tokenizer_dir: Path, workers: int
) -> Iterator[tuple[Split, npt.NDArray[np.uint32]]]:
    """The split and the token ids, shape (n,), of every document, in order.

    Text that looks like a special token ("<mask>" in a manual) is encoded as the ordinary text it is, and
    no special tokens are added. Memory is bounded by a few batches per worker.
    """
    for batch, (ids, ends) in map_in_order(
        _encode, (batch for batch in batches), workers, _start_encoder, (tokenizer_dir,)
    ):
        start = 0
        for split, end in zip(batch.splits, ends):
            yield split, ids[start:end]
            start = end


def _start_encoder(tokenizer_dir: Path) -> None:
    """One tokenizer thread per process: the processes are as many as the cores."""
    global _worker_tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_tokenizer = open_tokenizer(tokenizer_dir)
    _worker_tokenizer.encode_special_tokens = True
    _worker_tokenizer.no_truncation()
    _worker_tokenizer.no_padding()


def _encode(batch: Batch) -> tuple[npt.NDArray[np.uint32], list[int]]:
    """All ids of a batch end to end, and where each document's ids end."""
    assert _worker_tokenizer is not None
    encodings = _worker_tokenizer.encode_batch_fast(batch.texts, add_special_tokens=False)
    arrays = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
    return np.concatenate(arrays), np.cumsum([len(array) for array in arrays]).tolist()
