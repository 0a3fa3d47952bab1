"""Signatures of all parts -> the texts that nearly repeat another one.

Two texts are near-duplicates if one of their band hashes is equal (see cleaning.minhash), and so are those
connected by a chain of such pairs; of each group the text with the smallest digest stays, in whatever order
the inputs come. Signatures are looked at range by range of their hash. Memory grows with the number of
near-duplicates alone, when their groups are formed.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.cleaning.near_duplicates import duplicate_pairs, ids_to_remove
from data_prep.files import replacing
from data_prep.format import token_dtype
from data_prep.parallel import map_in_order
from data_prep.part_file import SIGNATURE, PartFile
from data_prep.progress import progress_bar
from data_prep.stages.plan import Plan
from data_prep.stages.work_dir import WorkDir

_PENDING_PAIRS = 1 << 20


class _Task(NamedTuple):
    work: WorkDir
    vocab_size: int


_worker: _Task | None = None


def find_near_duplicates(plan: Plan, work: WorkDir, vocab_size: int, workers: int) -> None:
    """Write the digests of the texts to leave out to `work.removed`, ascending."""
    if work.removed.is_file():
        return
    todo = [number for number in range(plan.num_ranges) if not work.pairs(number).is_file()]
    with progress_bar("near-duplicates", len(todo), " ranges") as bar:
        for _ in map_in_order(_find_pairs, todo, workers, _start_worker, (_Task(work, vocab_size),)):
            bar.update(1)
    _save(work.removed, ids_to_remove(_all_pairs(plan, work)))


def _all_pairs(plan: Plan, work: WorkDir) -> npt.NDArray[np.uint64]:
    """The pairs of all ranges, each once: two near-duplicates meet in up to 14 bands."""
    pairs = np.empty((0, 2), np.uint64)
    pending: list[npt.NDArray] = []
    for number in range(plan.num_ranges):
        pending.append(np.load(work.pairs(number)))
        if sum(map(len, pending)) > max(len(pairs), _PENDING_PAIRS):
            pairs, pending = _distinct(np.concatenate([pairs, *pending])), []
    return _distinct(np.concatenate([pairs, *pending]))


def _distinct(pairs: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    is_new = np.ones(len(pairs), dtype=bool)
    is_new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[is_new]


def _start_worker(task: _Task) -> None:
    global _worker
    _worker = task


def _find_pairs(number: int) -> None:
    assert _worker is not None
    work, dtype = _worker.work, token_dtype(_worker.vocab_size)
    found = [np.empty(0, SIGNATURE)]
    for path in work.part_files():
        with PartFile(path, dtype) as part:
            found.append(part.signatures(number))
    signatures = np.concatenate(found)
    _save(work.pairs(number), duplicate_pairs(signatures["hash"], signatures["text"]))


def _save(path: Path, array: npt.NDArray) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array)
