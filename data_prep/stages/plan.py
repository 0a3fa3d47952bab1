"""What a preparation will do, settled before it starts and the same for all its tasks.

The plan is a function of the inputs (paths, sizes), the tokenizer and the settings. It lies in the working
directory; whoever comes later compares and refuses to mix two preparations.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.cleaning.normalize import UnicodeForm
from data_prep.errors import DataError, UsageError
from data_prep.files import create_atomically
from data_prep.format import SourceInfo, Split
from data_prep.inputs.segments import Segment, cut_segments
from data_prep.inputs.sources import Source
from data_prep.packing import Packing
from data_prep.selection import MAX_SEGMENTS
from data_prep.stages.work_dir import WorkDir

_PLAN_VERSION = 2
_MEGABYTE = 1 << 20

# Text bytes: what a worker holds at once while tokenizing, and while packing; and a comfortable file.
_PART_BYTES = (_MEGABYTE // 16, 8 * _MEGABYTE)
_BUCKET_BYTES = 32 * _MEGABYTE
_SHARD_BYTES = 512 * _MEGABYTE
_SEGMENT_BYTES = 256 * _MEGABYTE
_RANGE_BYTES = 8 * _MEGABYTE
_MAX_RANGES = 4096
_PARTS_WISHED = 128  # enough to keep the cores of one machine busy to the end
_SEGMENTS_WISHED = 256  # and the tasks of a cluster
_EXPANSION = {
    ".gz": 4,
    ".bz2": 5,
    ".xz": 6,
    ".zst": 5,
    ".parquet": 4,
}  # text bytes per stored byte, rather too many


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(_Strict):
    """What determines the shards besides inputs and tokenizer; the manifest keeps it.

    Attributes:
        length: tokens per row.
        packing: see data_prep.packing.
        seed: of the shuffle.
        shards: training shards; None: one per 512 MB of text.
        valid_fraction: share of the documents held out.
        unicode: normalization form.
        min_chars: shorter documents are dropped.
        max_chars: longer ones are dropped.
        max_symbols: see data_prep.cleaning.filters.
        max_repetition: see data_prep.cleaning.filters.
        filter: the user's own filter, with a hash of its source.
        keep_duplicates: keep documents whose text came before.
        near_duplicates: look for near-duplicates and drop them.
    """

    length: int
    packing: Packing
    seed: int
    shards: int | None
    valid_fraction: float
    unicode: UnicodeForm
    min_chars: int
    max_chars: int | None
    max_symbols: float
    max_repetition: float
    filter: str | None
    keep_duplicates: bool
    near_duplicates: bool


class InputFile(_Strict):
    """An input file as it was when the plan was made."""

    path: str
    bytes: int
    modified_ns: int


class Plan(_Strict):
    """A preparation; see the module docstring.

    Attributes:
        version: of this format.
        settings: see Settings.
        tokenizer_sha256: identity of the tokenizer.
        sources: the corpora that are mixed.
        inputs: their files, in order.
        segments: what one task reads from its beginning.
        part_bytes: about how much of a segment is one part.
        num_shards: shards per split; some may turn out empty.
        buckets_per_shard: packed one after the other, to bound memory.
        num_ranges: ranges of near-duplicate signatures, each sorted in memory.
    """

    version: int
    settings: Settings
    tokenizer_sha256: str
    sources: list[Source]
    inputs: list[InputFile]
    segments: list[Segment]
    part_bytes: int
    num_shards: dict[Split, int]
    buckets_per_shard: int
    num_ranges: int

    @property
    def num_buckets(self) -> int:
        """Buckets of all shards; those of the training split come first."""
        return self.buckets_per_shard * sum(self.num_shards.values())

    def first_bucket(self, split: Split) -> int:
        """Number of the split's first bucket."""
        return 0 if split == "train" else self.buckets_per_shard * self.num_shards["train"]

    def split_buckets(self, split: Split) -> int:
        """How many buckets the split has."""
        return self.buckets_per_shard * self.num_shards[split]


def make_plan(sources: list[Source], tokenizer_sha256: str, settings: Settings) -> Plan:
    """Settle a preparation; a DataError names an input that cannot be looked at."""
    inputs = [_input_file(path) for source in sources for path in source.files]
    text_bytes = sum(
        path.stat().st_size * _expansion(path) * max(1, round(source.repeat))
        for source in sources
        for path in source.files
    )
    part_bytes = min(max(text_bytes // _PARTS_WISHED, _PART_BYTES[0]), _PART_BYTES[1])
    segment_bytes = max(4 * part_bytes, min(text_bytes // _SEGMENTS_WISHED, _SEGMENT_BYTES))
    segments = cut_segments(sources, segment_bytes)
    if len(segments) > MAX_SEGMENTS:
        raise DataError(f"the inputs make {len(segments):,} segments, more than {MAX_SEGMENTS:,}; join files")
    num_train = settings.shards or -(-text_bytes // _SHARD_BYTES) or 1
    num_valid = math.ceil(num_train * settings.valid_fraction)
    return Plan(
        version=_PLAN_VERSION,
        settings=settings,
        tokenizer_sha256=tokenizer_sha256,
        sources=sources,
        inputs=inputs,
        segments=segments,
        part_bytes=part_bytes,
        num_shards={"train": num_train, "valid": num_valid},
        buckets_per_shard=max(1, -(-text_bytes // (num_train * _BUCKET_BYTES))),
        num_ranges=min(-(-text_bytes // _RANGE_BYTES) or 1, _MAX_RANGES),
    )


def settle_plan(work: WorkDir, plan: Plan) -> None:
    """Write the plan to the working directory, or find it there.

    Raises:
        UsageError: Another preparation has begun there; the message tells the differences.
    """
    work.create()
    if not work.plan.exists() and create_atomically(work.plan, plan.model_dump_json() + "\n"):
        return
    differences = plan_differences(read_plan(work), plan)
    if differences:
        told = "\n  ".join(differences)
        raise UsageError(
            f"{work.root.parent} holds the beginnings of a corpus made otherwise:\n  {told}\n"
            f"finish that one with its own command{_its_command(work)}, name another --out, or delete "
            f"{work.root.parent}"
        )


def _its_command(work: WorkDir) -> str:
    if not work.command.is_file():
        return ""
    return f" ({work.command.read_text(encoding='utf-8').strip()})"


def read_plan(work: WorkDir) -> Plan:
    """The plan of a preparation that has begun."""
    if not work.plan.is_file():
        raise DataError(f"{work.root.parent}: no preparation has begun here; start one with 'shard'")
    try:
        plan = Plan.model_validate_json(work.plan.read_text(encoding="utf-8"))
    except (ValidationError, ValueError) as error:
        raise DataError(
            f"{work.plan} is damaged ({error}); delete {work.root.parent}, start again"
        ) from error
    if plan.version != _PLAN_VERSION:
        raise DataError(
            f"{work.root.parent}: this preparation was begun by another version of the program, which cut "
            f"long documents otherwise; delete {work.root} and start again"
        )
    return plan


def plan_differences(before: Plan, now: Plan) -> list[str]:
    """How two preparations differ, in a user's words; empty if they are the same."""
    told = setting_differences(before.settings.model_dump(), now.settings)
    if before.tokenizer_sha256 != now.tokenizer_sha256:
        told.append("the tokenizer is another one")
    was = {entry.path: entry for entry in before.inputs}
    here = {entry.path: entry for entry in now.inputs}
    told += [f"input {path} was not there" for path in here if path not in was]
    told += [f"input {path} is no longer named" for path in was if path not in here]
    told += [
        f"input {path} has been written to since ({was[path].bytes} bytes then, {entry.bytes} now)"
        for path, entry in here.items()
        if path in was and was[path] != entry
    ]
    told += source_differences(before.sources, now.sources)
    if not told and before != now:
        told.append("how the inputs are divided")
    return told


def setting_differences(before: dict[str, object], now: Settings) -> list[str]:
    """The settings that differ, as options of the command line."""
    return [
        f"--{name.replace('_', '-')} was {before.get(name)!r}, now {value!r}"
        for name, value in now.model_dump().items()
        if before.get(name) != value
    ]


def source_differences(before: Sequence[SourceInfo | Source], now: list[Source]) -> list[str]:
    """How sources differ from those a corpus is made of, in a user's words."""

    def described(source: SourceInfo | Source) -> tuple[object, ...]:
        fields = list(source.text_fields)
        return source.name, fields, source.text_documents, source.quoting, source.encoding, source.repeat

    was, here = [described(source) for source in before], [described(source) for source in now]
    names = ("name", "text field", "text documents", "quoting", "encoding", "repeat")
    if len(was) != len(here):
        return [f"{len(was)} sources were mixed, now {len(here)}"]
    return [
        f"source {there[0]}: {name} was {old!r}, now {new!r}"
        for there, mine in zip(was, here)
        for name, old, new in zip(names, there, mine)
        if old != new
    ]


def task_segments(plan: Plan, task: int, num_tasks: int) -> list[int]:
    """The segments that task `task` of `num_tasks` reads: each belongs to exactly one task."""
    return list(range(task, len(plan.segments), num_tasks))


def _input_file(path: Path) -> InputFile:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return InputFile(path=str(path), bytes=status.st_size, modified_ns=status.st_mtime_ns)


def _expansion(path: Path) -> int:
    factor = 1
    for ending in path.suffixes[-2:]:
        factor *= _EXPANSION.get(ending.lower(), 1)
    return factor
