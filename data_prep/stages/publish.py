"""The last stage: shards get their final names, and the manifest, written last, makes them a corpus."""

import json
import platform
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import tokenizers
import zstandard

from data_prep.files import sync_file, write_atomically
from data_prep.format import (
    DROPPED_NAME,
    FORMAT_VERSION,
    SPLITS,
    TOKENIZER_NAME,
    DocumentCounts,
    InputInfo,
    Manifest,
    ShardInfo,
    SourceInfo,
    Split,
    SplitInfo,
    shard_name,
    token_dtype,
    write_manifest,
)
from data_prep.stages.merge import Found
from data_prep.stages.pack import ShardReport
from data_prep.stages.plan import Plan
from data_prep.stages.work_dir import WorkDir
from data_prep.tokenizing.directory import SpecialIds, TokenizerDirectory


def publish(
    plan: Plan,
    work: WorkDir,
    found: Found,
    reports: list[ShardReport],
    tokenizer: TokenizerDirectory,
    ids: SpecialIds,
    command: str,
) -> Manifest:
    """Make the packed shards a corpus; may be done again if it was interrupted."""
    out = work.root.parent
    counts = document_counts(found, reports)
    shards = [info for split in SPLITS for info in _move_shards(work, out, split, reports)]
    tokenizer.write(out / TOKENIZER_NAME)
    write_atomically(out / DROPPED_NAME, _dropped_lines(found, reports, tokenizer))
    sync_file(out)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        sequence_length=plan.settings.length,
        token_dtype="uint16" if token_dtype(ids.vocab_size).itemsize == 2 else "uint32",
        vocab_size=ids.vocab_size,
        tokenizer_sha256=tokenizer.content_sha256(),
        splits={
            split: sum((report.counts for report in reports if report.split == split), SplitInfo())
            for split in SPLITS
        },
        documents=counts,
        characters=found.characters,
        dropped_characters=found.dropped_characters,
        removed_tokens=found.removed_tokens,
        sources=[
            SourceInfo(
                name=source.name,
                text_fields=list(source.text_fields),
                text_documents=source.text_documents,
                quoting=source.quoting,
                encoding=source.encoding,
                repeat=source.repeat,
                read=found.source_read.get(number, 0),
                kept=sum(report.kept.get(number, 0) for report in reports),
                tokens=sum(report.tokens.get(number, 0) for report in reports),
            )
            for number, source in enumerate(plan.sources)
        ],
        inputs=[
            InputInfo(path=entry.path, bytes=entry.bytes, documents=found.read.get(entry.path, 0))
            for entry in plan.inputs
        ],
        shards=shards,
        settings=plan.settings.model_dump(),
        command=command,
        versions=versions(),
    )
    for leftover in out.glob(".*.partial"):  # of a publication that was killed; this one has the lock
        leftover.unlink(missing_ok=True)
    write_manifest(out, manifest)
    work.remove()
    return manifest


def versions() -> dict[str, str]:
    """What made a corpus."""
    return {
        "lodestar": _version("lodestar"),
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "tokenizers": tokenizers.__version__,
        "zstandard": zstandard.__version__,  # its compressor measures repetition
        "charset-normalizer": _version("charset-normalizer"),  # guesses encodings
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _move_shards(work: WorkDir, out: Path, split: Split, reports: list[ShardReport]) -> list[ShardInfo]:
    """Final names; a shard that has its own already was moved by an interrupted publication."""
    filled = [report for report in reports if report.split == split and report.counts.rows]
    infos = []
    for index, report in enumerate(filled):
        path = out / shard_name(split, index, len(filled))
        packed = work.shard(split, report.number)
        if packed.exists():
            packed.replace(path)
        infos.append(
            ShardInfo(
                name=path.name,
                split=split,
                rows=report.counts.rows,
                bytes=report.bytes,
                sha256=report.sha256,
                blocks=report.blocks,
            )
        )
    return infos


def document_counts(found: Found, reports: list[ShardReport]) -> DocumentCounts:
    """Where every document went."""
    kept = {
        split: sum(sum(report.kept.values()) for report in reports if report.split == split)
        for split in SPLITS
    }
    return DocumentCounts(
        read=sum(found.read.values()),
        train=kept["train"],
        valid=kept["valid"],
        duplicates=found.duplicates + sum(report.duplicates for report in reports),
        near_duplicates=sum(report.near_duplicates for report in reports),
        dropped=found.dropped,
        damaged=found.damaged,
    )


def _dropped_lines(found: Found, reports: list[ShardReport], tokenizer: TokenizerDirectory) -> str:
    """The sample of documents left out, as JSON lines."""
    lines = [
        {
            "reason": f"damaged: {entry.reason}" if entry.is_damage else entry.reason,
            "where": entry.where,
            "text": entry.text,
        }
        for entry in found.samples
    ]
    near = sorted(sample for report in reports for sample in report.near_duplicate_samples)[:20]
    decode = tokenizer.tokenizer.decode
    lines += [
        {"reason": "near duplicate", "where": "", "text": decode(ids, skip_special_tokens=False)}
        for _, ids in near
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
