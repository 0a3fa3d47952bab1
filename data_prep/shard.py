"""Documents -> a corpus directory: the whole preparation, one task of it, or the merge of all tasks.

See data_prep.stages for how, and data_prep.format for what is written.
"""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from data_prep.errors import DataError, UsageError
from data_prep.files import write_atomically
from data_prep.format import DROPPED_NAME, MANIFEST_NAME, Manifest, read_manifest
from data_prep.inputs.sources import Source
from data_prep.stages.merge import SPLITS, check_complete, pack_shards, read_reports
from data_prep.stages.plan import (
    Plan,
    Settings,
    make_plan,
    read_plan,
    setting_differences,
    settle_plan,
    task_segments,
)
from data_prep.stages.publish import publish
from data_prep.stages.tokenize import Task, tokenize_segments
from data_prep.stages.work_dir import WorkDir
from data_prep.tokenizer import copy_tokenizer, open_tokenizer, special_ids
from data_prep.tokenizing.encoder import BackendChoice

_OURS = re.compile(
    r"(train|valid)-\d{5}-of-\d{5}\.arrow|\.work|tokenizer|"
    rf"{re.escape(DROPPED_NAME)}|\.({re.escape(MANIFEST_NAME)}|{re.escape(DROPPED_NAME)})\.\d+\.partial"
)


@dataclass(frozen=True)
class Request:
    """A preparation as it is asked for.

    Attributes:
        sources: what goes in.
        tokenizer_dir: a Hugging Face tokenizer directory.
        out: the corpus directory; new, empty, or with a preparation that was interrupted.
        settings: what determines the result besides.
        hook: the user's own filter, `module:function`.
        backend: how tokens are made; not what they are.
        strict: stop at the first record that cannot be read.
        workers: processes.
        command: the command line, for the manifest.
    """

    sources: list[Source]
    tokenizer_dir: Path
    out: Path
    settings: Settings
    hook: str | None
    backend: BackendChoice
    strict: bool
    workers: int
    command: str


def shard_corpus(request: Request) -> None:
    """Prepare a corpus, go on with it, or do nothing if `out` already holds the one asked for.

    Raises:
        UsageError: `out` holds something else.
        DataError: An input or the tokenizer cannot be used, or no row came of them.
    """
    plan = _begin(request)
    if plan is None:
        return
    _tokenize(request, plan, 0, 1)
    merge_corpus(request.out, request.workers)


def shard_task(request: Request, task: int, num_tasks: int) -> None:
    """Do the part of one task of many; `merge_corpus` makes a corpus of what they did.

    Raises:
        UsageError: `out` holds something else.
        DataError: An input or the tokenizer cannot be used.
    """
    plan = _begin(request)
    if plan is None:
        return
    tokens = _tokenize(request, plan, task, num_tasks)
    print(
        f"{request.out}: task {task} of {num_tasks} is done, {tokens:,} new tokens; when all are: "
        f"python -m data_prep merge {request.out}"
    )


def merge_corpus(out: Path, workers: int) -> None:
    """Make a corpus of finished tasks.

    Raises:
        DataError: Something is missing; the message says which tasks are to be run again.
    """
    started = perf_counter()
    work = WorkDir(out)
    if (out / MANIFEST_NAME).exists():
        work.remove()
        print(f"{out}: already done; 'verify' checks it byte by byte")
        return
    plan = read_plan(work)
    num_tasks = int(work.num_tasks.read_text()) if work.num_tasks.is_file() else 1
    check_complete(plan, work, num_tasks)
    ids = special_ids(open_tokenizer(work.tokenizer), work.tokenizer)
    found = read_reports(work, ids.vocab_size)
    reports = pack_shards(plan, work, ids, workers)
    command = work.command.read_text(encoding="utf-8").strip()
    try:
        manifest = publish(plan, work, found, reports, work.tokenizer, ids, command)
    except DataError:
        work.remove()  # no corpus comes of it, and other options must not be refused for its sake
        raise
    _print_summary(out, manifest, perf_counter() - started)


def _begin(request: Request) -> Plan | None:
    """The plan, settled in the working directory; None if the corpus is there already."""
    special_ids(open_tokenizer(request.tokenizer_dir), request.tokenizer_dir)
    plan = make_plan(request.sources, request.tokenizer_dir, request.settings)
    work = WorkDir(request.out)
    if (request.out / MANIFEST_NAME).exists():
        manifest = read_manifest(request.out)
        _check_is_the_same(request.out, manifest, plan)
        work.remove()
        print(
            f"{request.out}: already done, {len(manifest.shards)} shards; 'verify' checks them byte by byte"
        )
        return None
    _check_out(request.out)
    settle_plan(work, plan)
    if not work.tokenizer.exists():
        _copy_tokenizer(request.tokenizer_dir, work.tokenizer)
    if not work.command.exists():
        write_atomically(work.command, request.command + "\n")
    return plan


def _tokenize(request: Request, plan: Plan, task: int, num_tasks: int) -> int:
    """Make the part files of a task; the number of tokens in the new ones."""
    work = WorkDir(request.out)
    write_atomically(work.num_tasks, f"{num_tasks}\n")
    ids = special_ids(open_tokenizer(work.tokenizer), work.tokenizer)
    job = Task(plan, work, work.tokenizer, ids.vocab_size, request.hook, "huggingface", request.strict)
    segments = task_segments(plan, task, num_tasks)
    tokens = 0
    warned = False
    for report in tokenize_segments(job, segments, request.workers, request.backend):
        tokens += report.tokens
        if report.warning and not warned:
            print(f"warning: {report.warning}", file=sys.stderr)
            warned = True
    return tokens


def _copy_tokenizer(tokenizer_dir: Path, target: Path) -> None:
    """Several tasks may do this at once: the first one's copy is the one that stays."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    copy_tokenizer(tokenizer_dir, partial)
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _check_is_the_same(out: Path, manifest: Manifest, plan: Plan) -> None:
    """Refuse a finished corpus unless this very command would make it again."""
    differences = setting_differences(dict(manifest.settings), plan.settings)
    if manifest.tokenizer_sha256 != plan.tokenizer_sha256:
        differences.append("the tokenizer is another one")
    before = {(entry.path, entry.bytes) for entry in manifest.inputs}
    now = {(entry.path, entry.bytes) for entry in plan.inputs}
    differences += [f"input {path} ({size} bytes) was not there" for path, size in sorted(now - before)]
    differences += [f"input {path} ({size} bytes) is missing now" for path, size in sorted(before - now)]
    mixed = [(source.name, source.repeat) for source in manifest.sources]
    if not differences and mixed != [(source.name, source.repeat) for source in plan.sources]:
        differences.append("the sources are mixed otherwise")
    if differences:
        told = "\n  ".join(differences)
        raise UsageError(
            f"{out} already holds a corpus made otherwise:\n  {told}\n"
            f"name another --out, or delete {out} and start again"
        )
    for shard in manifest.shards:
        path = out / shard.name
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise DataError(
                f"{path} is missing or cut short; 'python -m data_prep verify {out}' tells all "
                f"that is wrong; delete {out} and start again"
            )


def _check_out(out: Path) -> None:
    """Refuse a directory that holds anything but an unfinished preparation."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a directory")
    present = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in present if not _OURS.fullmatch(name)]
    if foreign or (present and WorkDir.NAME not in present):
        raise UsageError(
            f"--out {out} is not empty and no corpus (it holds {(foreign or present)[0]}); "
            "name a new directory"
        )


def _print_summary(out: Path, manifest: Manifest, seconds: float) -> None:
    print(f"{out}: done, packed in {seconds:.1f} s")
    print(f"  documents  {manifest.documents.told()}")
    T = manifest.sequence_length
    for split in SPLITS:
        info, shards = manifest.splits[split], manifest.shards_of(split)
        files = "1 shard" if len(shards) == 1 else f"{len(shards):,} shards"
        padding = info.padding / max(1, info.rows * T)
        print(
            f"  {split}      {info.rows:,} rows of {T}, {info.tokens:,} tokens, {files}; "
            f"{padding:.2%} padding, {info.cut_documents:,} of {info.documents:,} documents cut"
        )
    if len(manifest.sources) > 1:
        total = max(1, sum(source.tokens for source in manifest.sources))
        for source in manifest.sources:
            told = f"{source.kept:,} of {source.read:,} documents, x {source.repeat:g}"
            print(f"  source     {source.name}: {told}, {source.tokens / total:.1%} of the tokens")
    if manifest.documents.damaged:
        told = ", ".join(f"{count:,} {reason}" for reason, count in manifest.documents.damaged.items())
        print(f"warning: {told}; python -m data_prep inspect {out} --dropped shows where", file=sys.stderr)
