"""Parts of the input -> part files: read, cleaned, filtered, tokenized, sorted into buckets.

One process reads; as many workers as there are cores do the rest, each with one tokenizer thread. A part
file that exists is not made again.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from data_prep.cleaning.filters import FilterOptions, make_filter
from data_prep.cleaning.minhash import NUM_BANDS, batch_band_hashes
from data_prep.cleaning.normalize import clean_text
from data_prep.errors import DataError
from data_prep.files import write_json_atomically
from data_prep.format import Split, token_dtype
from data_prep.inputs.damage import Damage
from data_prep.inputs.parts import Part, read_parts
from data_prep.inputs.records import read_records
from data_prep.parallel import map_in_order
from data_prep.part_file import DOCUMENT, SIGNATURE, bucket_of, write_part
from data_prep.progress import progress_bar
from data_prep.ragged import take
from data_prep.selection import MAX_PARTS, digest_of, document_ids, num_copies, order_keys, split_of
from data_prep.stages.part_report import PartReport, Samples
from data_prep.stages.plan import Plan, Settings
from data_prep.stages.work_dir import WorkDir
from data_prep.tokenizing.encoder import (
    Backend,
    Encoder,
    HuggingFaceEncoder,
    first_difference,
    open_encoder,
    without_ids,
)

_BATCH_CHARACTERS = 1 << 18
_BATCH_DOCUMENTS = 1024
_CHECKED_DOCUMENTS, _CHECKED_CHARACTERS = 2, 1 << 14  # on which a faster backend must prove itself again


class TokenizeTask(NamedTuple):
    """What a worker needs to know; settled before the first part."""

    plan: Plan
    work: WorkDir
    tokenizer_dir: Path
    vocab_size: int
    special_ids: tuple[int, ...]
    hook: str | None
    backend: Backend
    strict: bool


class _Kept(NamedTuple):
    """Documents that passed the filters, not yet tokenized: (index in the part, split, copies, digest)."""

    texts: list[str]
    rows: list[tuple[int, bool, int, int, int]]


_worker: "PartTokenizer | None" = None


def filter_options(settings: Settings, hook: str | None) -> FilterOptions:
    """What documents must be like; a UsageError if there can be none."""
    return FilterOptions(
        min_chars=settings.min_chars,
        max_chars=settings.max_chars,
        max_symbols=settings.max_symbols,
        max_repetition=settings.max_repetition,
        hook=hook,
    )


def tokenize_segments(task: TokenizeTask, segments: list[int], workers: int) -> Iterator[PartReport]:
    """Make the part files of these segments that do not exist yet; yields the report of each new one.

    Raises:
        DataError: In strict mode, the first record that cannot be read.
    """
    plan, work = task.plan, task.work
    todo = [number for number in segments if not is_complete(work, number)]
    if not todo:
        return
    total = sum(plan.segments[number].bytes for number in todo)
    with progress_bar("tokenize", total, "B") as bar:
        started, tokens = perf_counter(), 0
        parts = _unfinished_parts(plan, work, todo, bar)
        for _, report in map_in_order(_tokenize_in_worker, parts, workers, _start_worker, (task,)):
            tokens += report.tokens
            bar.set_postfix_str(f"{tokens / (perf_counter() - started):,.0f} tokens/s", refresh=False)
            yield report


def is_complete(work: WorkDir, segment: int) -> bool:
    """Whether a segment has been read to its end and every part of it is there."""
    return work.segment(segment).is_file() and not missing_parts(work, segment)


def missing_parts(work: WorkDir, segment: int) -> list[int]:
    """The parts that a segment read to its end still lacks."""
    return [part for part in range(num_parts(work, segment)) if not work.part(segment, part).is_file()]


def num_parts(work: WorkDir, segment: int) -> int:
    """The number of parts of a segment that has been read to its end."""
    return int(work.segment(segment).read_text(encoding="utf-8"))


class PartTokenizer:
    """Makes part files; one in every worker."""

    def __init__(self, task: TokenizeTask) -> None:
        """Open the tokenizer, load the filters."""
        self._task = task
        self._settings = task.plan.settings
        self._dtype = token_dtype(task.vocab_size)
        self._encoder = open_encoder(task.backend, task.tokenizer_dir)
        self._reference: Encoder | None = None
        if task.backend != "huggingface":
            self._reference = HuggingFaceEncoder(task.tokenizer_dir)
        self._drop_reason = make_filter(filter_options(self._settings, task.hook))

    def make(self, segment: int, part: Part) -> PartReport:
        """Make one part file."""
        report = PartReport(source=self._task.plan.segments[segment].source)
        tables: list[npt.NDArray] = []
        tokens: list[npt.NDArray] = []
        encoder, checked = self._encoder, self._reference is None
        for kept in self._batches(part, report):
            if not checked:
                encoder, checked = self._checked_encoder(kept.texts, report), True
            encoded = without_ids(encoder.encode(kept.texts), self._task.special_ids)
            report.characters += sum(map(len, kept.texts))
            report.dropped_characters += encoded.num_dropped
            report.removed_tokens += encoded.num_removed
            tables.append(_table(kept, encoded.lengths))
            tokens.append(encoded.ids.astype(self._dtype))
        table = np.concatenate([_NO_DOCUMENTS, *tables])
        flat = np.concatenate([np.empty(0, self._dtype), *tokens])
        report.tokens = len(flat)
        starts = np.cumsum(table["length"], dtype=np.int64) - table["length"]
        keep = table["length"] > 0
        if not keep.all():
            report.dropped["no tokens"] = int((~keep).sum())
        if not self._settings.keep_duplicates:
            # Those within a part; without them, a text that is everywhere takes no memory when packing.
            first = np.zeros(len(table), dtype=bool)
            first[np.unique(table["digest"].view("u8,u8")[:, 0], return_index=True)[1]] = True
            report.duplicates = int((keep & ~first).sum())
            keep &= first
        self._write(segment, part.number, table[keep], starts[keep], flat, report)
        return report

    def _batches(self, part: Part, report: PartReport) -> Iterator[_Kept]:
        """The documents that pass, in batches; counts all others."""
        source = self._task.plan.sources[report.source]
        samples = Samples()
        read: Counter[str] = Counter()
        damaged: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        batch, num_characters, index = _Kept([], []), 0, 0
        for piece in part.pieces:
            for record in read_records(piece, source):
                index += 1
                read[piece.path] += 1
                if isinstance(record, Damage):
                    if self._task.strict:
                        raise DataError(f"{record.where}: {record.reason}: {record.detail}")
                    damaged[record.reason] += 1
                    samples.add(record.reason, record.where, record.detail, is_damage=True)
                    continue
                text = clean_text(record, self._settings.unicode)
                reason = self._drop_reason(text)
                digest = digest_of(text)
                copies = num_copies(digest, source.repeat)
                if reason is None and not copies:
                    dropped["not sampled"] += 1
                    continue
                if reason is not None:
                    dropped[reason] += 1
                    samples.add(reason, piece.path, text)
                    continue
                is_valid = split_of(digest, self._settings.valid_fraction) == "valid"
                # Held-out documents count once, however often their source is repeated.
                batch.rows.append((index, is_valid, 1 if is_valid else copies, *digest))
                batch.texts.append(text)
                num_characters += len(text)
                if num_characters >= _BATCH_CHARACTERS or len(batch.texts) == _BATCH_DOCUMENTS:
                    yield batch
                    batch, num_characters = _Kept([], []), 0
        if batch.texts:
            yield batch
        report.read, report.damaged, report.dropped = dict(read), dict(damaged), dict(dropped)
        report.samples = samples.kept()

    def _checked_encoder(self, texts: list[str], report: PartReport) -> Encoder:
        """The fast encoder, unless it fails on the first documents of this part."""
        assert self._reference is not None
        texts = [text for text in texts[:_CHECKED_DOCUMENTS] if len(text) <= _CHECKED_CHARACTERS]
        different = first_difference(self._encoder, self._reference, texts)
        if different is None:
            return self._encoder
        told = f"gigatoken gives other tokens for {different[:60]!r}"
        report.warning = f"{told}; the ordinary tokenizer is used for this part"
        return self._reference

    def _write(
        self,
        segment: int,
        part: int,
        table: npt.NDArray,
        starts: npt.NDArray[np.int64],
        tokens: npt.NDArray,
        report: PartReport,
    ) -> None:
        plan = self._task.plan
        signatures = np.empty(0, SIGNATURE)
        if self._settings.near_duplicates:
            signatures = _signatures(table, starts, tokens)
        # One record for every copy.
        copies = table["copies"].astype(np.int64)
        which = np.repeat(np.arange(len(table)), copies)
        records = np.empty(len(which), DOCUMENT)
        records["digest"] = table["digest"][which]
        records["id"] = document_ids(segment, part, table["index"])[which]
        records["source"] = report.source
        records["copy"] = np.arange(len(which)) - np.repeat(np.cumsum(copies) - copies, copies)
        records["length"] = table["length"][which]
        records["key"] = order_keys(
            self._settings.seed,
            records["digest"],
            records["copy"],
            records["id"] if self._settings.keep_duplicates else None,
        )
        buckets = np.empty(len(which), dtype=np.int64)
        is_valid = table["valid"][which]
        chosen_by_split: dict[Split, npt.NDArray] = {"train": ~is_valid, "valid": is_valid}
        for split, chosen in chosen_by_split.items():
            buckets[chosen] = plan.first_bucket(split) + bucket_of(
                records["key"][chosen], plan.split_buckets(split)
            )
        write_part(
            self._task.work.part(segment, part),
            records,
            starts[which],
            tokens,
            buckets,
            plan.num_buckets,
            signatures,
            plan.num_ranges,
            report.model_dump_json().encode(),
        )


_TABLE = np.dtype([("index", "u4"), ("valid", "?"), ("copies", "u2"), ("digest", "u8", 2), ("length", "u4")])
_NO_DOCUMENTS = np.empty(0, _TABLE)


def _table(kept: _Kept, lengths: npt.NDArray[np.int64]) -> npt.NDArray:
    table = np.empty(len(kept.rows), _TABLE)
    columns = list(zip(*kept.rows))
    table["index"], table["valid"], table["copies"] = columns[:3]
    table["digest"] = np.array(columns[3:], dtype=np.uint64).T
    table["length"] = lengths
    return table


def _signatures(table: npt.NDArray, starts: npt.NDArray[np.int64], tokens: npt.NDArray) -> npt.NDArray:
    """The band hashes of every document, each with the first half of its digest."""
    signatures = np.empty(len(table) * NUM_BANDS, SIGNATURE)
    for first in range(0, len(table), _BATCH_DOCUMENTS):
        batch = slice(first, first + _BATCH_DOCUMENTS)
        lengths = table["length"][batch].astype(np.int64)
        hashes = batch_band_hashes(take(tokens, starts[batch], lengths), np.cumsum(lengths))
        signatures["hash"][first * NUM_BANDS : first * NUM_BANDS + hashes.size] = hashes.reshape(-1)
    signatures["text"] = np.repeat(table["digest"][:, 0], NUM_BANDS)
    return signatures


def _unfinished_parts(
    plan: Plan, work: WorkDir, segments: list[int], bar: tqdm
) -> Iterator[tuple[int, Part]]:
    """Reads the segments; says of each how many parts it has once its end is reached."""
    finished_bytes = 0
    for number in segments:
        segment = plan.segments[number]
        count = 0
        for part in read_parts(segment, plan.sources[segment.source], plan.part_bytes):
            count = part.number + 1
            bar.update(min(part.stored_bytes, segment.bytes) + finished_bytes - bar.n)
            if count > MAX_PARTS:
                raise DataError(f"{segment.stretches[0].path}: too large for one file; split it")
            if not work.part(number, part.number).is_file():
                yield number, part
        write_json_atomically(work.segment(number), count)
        finished_bytes += segment.bytes
        bar.update(finished_bytes - bar.n)


def _start_worker(task: TokenizeTask) -> None:
    global _worker
    _worker = PartTokenizer(task)


def _tokenize_in_worker(item: tuple[int, Part]) -> PartReport:
    assert _worker is not None
    return _worker.make(*item)
