"""Signatures of all parts -> the documents that nearly repeat an earlier one.

Two documents are near-duplicates if one of their band hashes is equal (see cleaning.minhash), and so are
those connected by a chain of such pairs; of each group the first document of the input stays. Signatures
are looked at range by range of their hash. Memory grows with the number of near-duplicates alone: about
100 bytes each when their groups are formed.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.cleaning.near_duplicates import duplicate_pairs, ids_to_remove
from data_prep.files import sync_file
from data_prep.format import token_dtype
from data_prep.parallel import map_in_order
from data_prep.part_file import SIGNATURE, PartFile
from data_prep.progress import progress_bar
from data_prep.stages.plan import Plan
from data_prep.stages.work_dir import WorkDir


class _Task(NamedTuple):
    work: WorkDir
    vocab_size: int


_worker: _Task | None = None


def find_near_duplicates(plan: Plan, work: WorkDir, vocab_size: int, workers: int) -> None:
    """Write the ids of the documents to leave out to `work.removed`, ascending."""
    if work.removed.is_file():
        return
    todo = [number for number in range(plan.num_ranges) if not work.pairs(number).is_file()]
    with progress_bar("near-duplicates", len(todo), " ranges") as bar:
        for _ in map_in_order(
            _find_pairs, todo, min(workers, plan.num_ranges), _start_worker, (_Task(work, vocab_size),)
        ):
            bar.update(1)
    pairs = np.concatenate([np.load(work.pairs(number)) for number in range(plan.num_ranges)])
    _save(work.removed, ids_to_remove(pairs))


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
    _save(work.pairs(number), duplicate_pairs(signatures["hash"], signatures["id"]))


def _save(path: Path, array: npt.NDArray) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    sync_file(partial)
    partial.replace(path)
