"""A corpus -> the same documents in rows of another length or packing, without tokenizing again.

Every shard becomes one shard, block by block, in bounded memory. The result has the bytes that preparing
the inputs with the new options would have given. What is finished survives a kill.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from data_prep.blocks import read_blocks
from data_prep.errors import UsageError
from data_prep.files import partial_of, sha256_file, sync_file, write_atomically
from data_prep.format import (
    DROPPED_NAME,
    MANIFEST_NAME,
    SPLITS,
    TOKENIZER_NAME,
    WORK_NAME,
    Manifest,
    ShardInfo,
    ShardWriter,
    SplitInfo,
    read_manifest,
    write_manifest,
)
from data_prep.packing import Packing, PieceIds, pack_block, unpack
from data_prep.parallel import map_in_order
from data_prep.progress import progress_bar
from data_prep.stages.publish import versions
from data_prep.stages.work_dir import WorkDir
from data_prep.tokenizing.directory import TokenizerDirectory, open_directory


class _Job(BaseModel):
    """What determines a packing anew; another one in the same directory is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    corpus_sha256: str
    length: int
    packing: Packing


class _Packed(BaseModel):
    info: ShardInfo
    counts: SplitInfo


class _Task(NamedTuple):
    corpus: Path
    out: Path
    job: _Job
    manifest: Manifest
    ids: PieceIds


_task: _Task | None = None


def repack_corpus(
    corpus: Path, out: Path, length: int, packing: Packing | None, workers: int, command: str
) -> None:
    """Write the documents of `corpus` to `out` in rows of `length` tokens.

    Args:
        corpus: A finished corpus.
        out: The new corpus directory.
        length: Tokens per row.
        packing: None to keep the corpus's own.
        workers: Processes.
        command: The command line, for the manifest.

    Raises:
        DataError: `corpus` is none, or is damaged.
        UsageError: `out` holds something else.
    """
    manifest = read_manifest(corpus)
    packing = packing or _packing_of(manifest)
    job = _Job(corpus_sha256=manifest.content_sha256(), length=length, packing=packing)
    settings = {**manifest.settings, "length": length, "packing": packing}
    work = WorkDir(out)
    tokenizer = open_directory(corpus / TOKENIZER_NAME)
    if _is_done(out, manifest, settings, tokenizer):
        work.remove()  # a run that was killed at its very end has left it
        print(f"{out}: already done")
        return
    _settle(work, job)
    special = tokenizer.row_ids()
    task = _Task(corpus, out, job, manifest, PieceIds(special.cls, special.sep, special.pad))
    shards = manifest.shards
    todo = [shard for shard in shards if not _report(out, shard).is_file()]
    with progress_bar("repack", sum(shard.bytes for shard in todo), "B") as bar:
        for shard, _ in map_in_order(_repack_in_worker, todo, workers, _start_worker, (task,)):
            bar.update(shard.bytes)
    packed = [
        _Packed.model_validate_json(_report(out, shard).read_text(encoding="utf-8")) for shard in shards
    ]
    for entry in packed:
        path = work.root / "shards" / entry.info.name
        if path.exists():  # else an interrupted publication has moved it
            path.replace(out / entry.info.name)
    tokenizer.framed().write(out / TOKENIZER_NAME)
    if (corpus / DROPPED_NAME).is_file():
        write_atomically(out / DROPPED_NAME, (corpus / DROPPED_NAME).read_text(encoding="utf-8"))
    sync_file(out)
    update = {
        "sequence_length": length,
        "tokenizer_sha256": tokenizer.content_sha256(),
        "settings": settings,
        "shards": [entry.info for entry in packed],
        "splits": {
            split: sum((entry.counts for entry in packed if entry.info.split == split), SplitInfo())
            for split in SPLITS
        },
        "command": command,
        "versions": versions(),
    }
    write_manifest(out, manifest.model_copy(update=update))
    work.remove()
    rows = sum(entry.info.rows for entry in packed)
    print(f"{out}: {rows:,} rows of {length}, {len(packed):,} shards")


def _packing_of(manifest: Manifest) -> Packing:
    packing: Packing = manifest.settings["packing"]  # type: ignore[assignment]
    return packing


def _is_done(
    out: Path,
    manifest: Manifest,
    settings: dict[str, str | int | float | bool | None],
    tokenizer: TokenizerDirectory,
) -> bool:
    if not (out / MANIFEST_NAME).exists():
        return False
    present = read_manifest(out)
    same = tokenizer.is_recorded(present.tokenizer_sha256) and present.inputs == manifest.inputs
    if not same or present.settings != settings:
        raise UsageError(f"{out} already holds another corpus; name another --out, or delete it")
    return True


def _settle(work: WorkDir, job: _Job) -> None:
    out = work.root.parent
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a directory")
    if work.plan.is_file():
        if work.plan.read_text(encoding="utf-8") != job.model_dump_json():
            raise UsageError(
                f"{out} holds the beginnings of another corpus; name another --out, or delete it"
            )
        return
    if out.is_dir() and any(path.name != WORK_NAME for path in out.iterdir()):
        raise UsageError(f"--out {out} is not empty; name a new directory")
    work.create()
    write_atomically(work.plan, job.model_dump_json())


def _report(out: Path, shard: ShardInfo) -> Path:
    return WorkDir(out).root / "shards" / f"{shard.name}.json"


def _start_worker(task: _Task) -> None:
    global _task
    _task = task


def _repack_in_worker(shard: ShardInfo) -> None:
    assert _task is not None
    corpus, out, job, manifest, ids = _task
    path = WorkDir(out).root / "shards" / shard.name
    partial = partial_of(path)
    writer = ShardWriter(partial, job.length, np.dtype(manifest.token_dtype))
    counts = SplitInfo()
    seed = int(manifest.settings["seed"] or 0)
    for block in read_blocks(corpus / shard.name, shard):
        tokens, lengths = unpack(block, ids.sep)
        rows = pack_block(tokens, lengths, job.length, job.packing, seed, ids)
        writer.write(rows)
        counts += SplitInfo.of(rows)
    writer.close()
    info = shard.model_copy(
        update={
            "rows": counts.rows,
            "bytes": partial.stat().st_size,
            "sha256": sha256_file(partial),
            "blocks": writer.blocks,
        }
    )
    partial.replace(path)
    write_atomically(_report(out, shard), _Packed(info=info, counts=counts).model_dump_json())
