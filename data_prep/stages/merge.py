"""Finished parts -> packed shards: is all there, what became of the documents, near-duplicates, rows."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from data_prep.errors import DataError
from data_prep.format import SPLITS, token_dtype
from data_prep.packing import PieceIds
from data_prep.parallel import map_in_order
from data_prep.part_file import PartFile
from data_prep.progress import progress_bar
from data_prep.stages.deduplicate import find_near_duplicates
from data_prep.stages.pack import PackTask, ShardReport, pack_in_worker, start_packer
from data_prep.stages.part_report import LeftOut, PartReport
from data_prep.stages.plan import Plan
from data_prep.stages.tokenize import is_complete
from data_prep.stages.work_dir import WorkDir
from data_prep.tokenizing.directory import SpecialIds

_SAMPLES_PER_REASON = 20


class Found(NamedTuple):
    """What all parts report together.

    Attributes:
        read: documents and damaged records by input file.
        source_read: the same by source.
        duplicates: documents whose text came before in the same part.
        dropped: documents by reason.
        damaged: records by reason.
        samples: of both, a few per reason.
        characters: of all documents that were tokenized.
        dropped_characters: those of them that have left no token.
        removed_tokens: special tokens that the tokenizer found in texts, which have been taken out.
    """

    read: dict[str, int]
    source_read: dict[int, int]
    duplicates: int
    dropped: dict[str, int]
    damaged: dict[str, int]
    samples: list[LeftOut]
    characters: int
    dropped_characters: int
    removed_tokens: int


def check_complete(plan: Plan, work: WorkDir, num_tasks: int) -> None:
    """Refuse to merge while parts are missing.

    Args:
        plan: The preparation.
        work: Its working directory.
        num_tasks: Into how many tasks it was divided, to name those that are to be run again.

    Raises:
        DataError: The message says which tasks, or that the command is to be started again.
    """
    missing = [number for number in range(len(plan.segments)) if not is_complete(work, number)]
    if not missing:
        return
    tasks = sorted({number % num_tasks for number in missing})
    again = "start the same 'shard' command again"
    if num_tasks > 1:
        named = ",".join(map(str, tasks))
        again = f"run these tasks of {num_tasks} again: {named} (sbatch --array={named})"
    raise DataError(
        f"{work.root.parent}: {len(missing):,} of {len(plan.segments):,} segments are not finished; {again}"
    )


def read_reports(work: WorkDir, vocab_size: int) -> Found:
    """Add up the reports of all parts."""
    read: Counter[str] = Counter()
    source_read: Counter[int] = Counter()
    duplicates = characters = dropped_characters = removed_tokens = 0
    dropped: Counter[str] = Counter()
    damaged: Counter[str] = Counter()
    samples: dict[str, list[LeftOut]] = {}
    for path in work.part_files():
        with PartFile(path, token_dtype(vocab_size)) as part:
            report = PartReport.model_validate_json(part.report())
        read.update(report.read)
        source_read[report.source] += sum(report.read.values())
        duplicates += report.duplicates
        characters += report.characters
        dropped_characters += report.dropped_characters
        removed_tokens += report.removed_tokens
        dropped.update(report.dropped)
        damaged.update(report.damaged)
        for sample in report.samples:
            of_reason = samples.setdefault(sample.reason, [])
            of_reason.append(sample)
            of_reason.sort(key=lambda sample: sample.order)
            del of_reason[_SAMPLES_PER_REASON:]
    return Found(
        read=dict(read),
        source_read=dict(source_read),
        duplicates=duplicates,
        dropped=dict(sorted(dropped.items())),
        damaged=dict(sorted(damaged.items())),
        samples=[sample for _, of_reason in sorted(samples.items()) for sample in of_reason],
        characters=characters,
        dropped_characters=dropped_characters,
        removed_tokens=removed_tokens,
    )


def pack_shards(plan: Plan, work: WorkDir, ids: SpecialIds, workers: int) -> list[ShardReport]:
    """Pack what is not packed yet; the reports of all shards, training shards first."""
    if plan.settings.near_duplicates:
        find_near_duplicates(plan, work, ids.vocab_size, workers)
    shards = [(split, number) for split in SPLITS for number in range(plan.num_shards[split])]
    todo = [shard for shard in shards if not work.shard_report(*shard).is_file()]
    task = PackTask(plan, work, PieceIds(ids.cls, ids.sep, ids.pad), ids.vocab_size)
    workers = min(workers, plan.num_shards["train"])  # the held-out shards are small: not worth a process
    with progress_bar("pack", len(todo), " shards") as bar:
        for _ in map_in_order(pack_in_worker, todo, workers, start_packer, (task,)):
            bar.update(1)
    return [_read_report(work.shard_report(*shard)) for shard in shards]


def _read_report(path: Path) -> ShardReport:
    return ShardReport.model_validate_json(path.read_text(encoding="utf-8"))
