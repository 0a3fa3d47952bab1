"""The buckets of a shard -> its rows: duplicates out, documents in random order, packed, rows shuffled."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from data_prep.files import partial_of, sha256_file, write_atomically
from data_prep.format import ShardWriter, Split, SplitInfo, token_dtype
from data_prep.packing import PieceIds, pack_block
from data_prep.part_file import DOCUMENT, Documents, PartFile
from data_prep.ragged import take
from data_prep.stages.plan import Plan
from data_prep.stages.work_dir import WorkDir

_SAMPLES = 5
_SHOWN_TOKENS = 500


class ShardReport(BaseModel):
    """A packed shard. By source: documents kept, each once however often it is repeated, and tokens."""

    model_config = ConfigDict(extra="forbid")

    split: Split
    number: int
    counts: SplitInfo = SplitInfo()
    blocks: list[int] = []
    bytes: int = 0
    sha256: str = ""
    kept: dict[int, int] = {}
    tokens: dict[int, int] = {}
    duplicates: int = 0
    near_duplicates: int = 0
    near_duplicate_samples: list[tuple[int, list[int]]] = []


class PackTask(NamedTuple):
    """What a packing worker needs to know."""

    plan: Plan
    work: WorkDir
    ids: PieceIds
    vocab_size: int


_worker: "ShardPacker | None" = None


class ShardPacker:
    """Packs shards; one in every worker."""

    def __init__(self, task: PackTask) -> None:
        """Find the part files and the texts that near-duplicate removal leaves out."""
        self._plan, self._work, self._ids, _ = task
        self._dtype = token_dtype(task.vocab_size)
        self._parts = self._work.part_files()
        self._removed = np.empty(0, np.uint64)
        if self._work.removed.is_file():
            self._removed = np.load(self._work.removed, mmap_mode="r")

    def pack(self, split: Split, number: int) -> ShardReport:
        """Write one shard and, last, its report. A shard without rows leaves only the report."""
        settings = self._plan.settings
        report = ShardReport(split=split, number=number)
        path = self._work.shard(split, number)
        partial = partial_of(path)
        writer = ShardWriter(partial, settings.length, self._dtype)
        first = self._plan.first_bucket(split) + number * self._plan.buckets_per_shard
        for bucket in range(first, first + self._plan.buckets_per_shard):
            documents = self._bucket(bucket, report)
            lengths = documents.records["length"].astype(np.int64)
            if len(lengths):
                self._count(documents.records, report)
                rows = pack_block(
                    documents.tokens, lengths, settings.length, settings.packing, settings.seed, self._ids
                )
                writer.write(rows)
                report.counts += SplitInfo.of(rows)
        writer.close()
        report.blocks = writer.blocks
        if report.counts.rows:
            report.bytes, report.sha256 = partial.stat().st_size, sha256_file(partial)
            partial.replace(path)
        partial.unlink(missing_ok=True)
        write_atomically(self._work.shard_report(split, number), report.model_dump_json() + "\n")
        return report

    def _bucket(self, bucket: int, report: ShardReport) -> Documents:
        """A bucket's documents from all parts in their random order, without those to be left out."""
        found = [_read_bucket(path, self._dtype, bucket) for path in self._parts]
        records = np.concatenate([np.empty(0, DOCUMENT), *(documents.records for documents in found)])
        order = np.lexsort((records["id"], records["digest"][:, 1], records["digest"][:, 0], records["key"]))
        keep = np.ones(len(order), dtype=bool)
        if not self._plan.settings.keep_duplicates:
            same = [records[name][order][1:] == records[name][order][:-1] for name in ("key", "digest")]
            keep[1:] = ~(same[0] & same[1].all(axis=1))
        # A text is counted once, as its first copy; the copies of a repeated source are further ones.
        first_copy = records["copy"][order] == 0
        report.duplicates += int((~keep & first_copy).sum())
        near = keep & _is_in(records["digest"][order, 0], self._removed)
        report.near_duplicates += int((near & first_copy).sum())
        keep &= ~near

        starts = np.cumsum(records["length"], dtype=np.int64) - records["length"]
        tokens = np.concatenate([np.empty(0, self._dtype), *(documents.tokens for documents in found)])
        found.clear()
        self._sample(records, starts, tokens, order[near & first_copy], report)
        chosen = order[keep]
        return Documents(records[chosen], take(tokens, starts[chosen], records["length"][chosen]))

    def _sample(
        self,
        records: npt.NDArray,
        starts: npt.NDArray,
        tokens: npt.NDArray,
        near: npt.NDArray,
        report: ShardReport,
    ) -> None:
        digests = records["digest"][near, 0]
        for index in near[np.argsort(digests, kind="stable")[:_SAMPLES]].tolist():
            end = starts[index] + min(int(records["length"][index]), _SHOWN_TOKENS)
            sample = (int(records["digest"][index, 0]), tokens[starts[index] : end].tolist())
            report.near_duplicate_samples.append(sample)
        report.near_duplicate_samples = sorted(report.near_duplicate_samples)[:_SAMPLES]

    def _count(self, records: npt.NDArray, report: ShardReport) -> None:
        kept = Counter(records["source"][records["copy"] == 0].tolist())
        report.kept = dict(Counter(report.kept) + kept)
        tokens = np.bincount(records["source"], weights=records["length"]).astype(int)
        report.tokens = dict(Counter(report.tokens) + Counter(dict(enumerate(tokens.tolist()))))


def start_packer(task: PackTask) -> None:
    """Called once in every worker."""
    global _worker
    _worker = ShardPacker(task)


def pack_in_worker(item: tuple[Split, int]) -> ShardReport:
    """Pack one shard."""
    assert _worker is not None
    return _worker.pack(*item)


def _read_bucket(path: Path, dtype: np.dtype, bucket: int) -> Documents:
    with PartFile(path, dtype) as part:
        return part.documents(bucket)


def _is_in(values: npt.NDArray[np.uint64], ascending: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which values are in a sorted array, by bisection: it may be a large file."""
    places = np.searchsorted(ascending, values)
    found = np.zeros(len(values), dtype=bool)
    inside = places < len(ascending)
    found[inside] = ascending[places[inside]] == values[inside]
    return found
