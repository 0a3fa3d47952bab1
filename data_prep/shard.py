"""Documents -> a corpus directory: the whole preparation, one task of it, or the merge of all tasks.

See data_prep.stages for how, and data_prep.format for what is written.
"""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from data_prep.cleaning.filters import make_filter
from data_prep.errors import DataError, UsageError
from data_prep.files import create_atomically, partial_of, write_atomically
from data_prep.format import DROPPED_NAME, MANIFEST_NAME, TOKENIZER_NAME, WORK_NAME, Manifest, read_manifest
from data_prep.inputs.sources import Source
from data_prep.stages.backend import settle_backend
from data_prep.stages.merge import check_complete, pack_shards, read_reports
from data_prep.stages.plan import (
    Plan,
    Settings,
    make_plan,
    read_plan,
    setting_differences,
    settle_plan,
    source_differences,
    task_segments,
)
from data_prep.stages.publish import document_counts, publish
from data_prep.stages.tokenize import TokenizeTask, filter_options, tokenize_segments
from data_prep.stages.work_dir import WorkDir
from data_prep.summary import describe_damage, print_summary, print_warnings
from data_prep.tokenizing.directory import TokenizerDirectory, open_directory
from data_prep.tokenizing.encoder import BackendChoice
from data_prep.tokenizing.second_reading import warn_of_other_readings
from data_prep.tokenizing.special_tokens import Role

_OURS = re.compile(
    r"(train|valid)-\d{5}-of-\d{5}\.arrow|\.work|tokenizer|"
    rf"{re.escape(DROPPED_NAME)}|\.({re.escape(MANIFEST_NAME)}|{re.escape(DROPPED_NAME)})\.[0-9a-f]+\.partial"
)

_TAKEN_OUT: tuple[Role, ...] = ("cls", "sep", "pad", "mask")  # of texts, if a tokenizer finds them there


class Task(NamedTuple):
    """One task of many, numbered from 0.

    `num_tasks` is None if only the array it runs in is known, of which this may be a part submitted again;
    `array_size` then says how many tasks a first submission has.
    """

    number: int
    num_tasks: int | None
    array_size: int


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
    merge_corpus(request.out, request.workers, request.strict)


def shard_task(request: Request, task: Task) -> None:
    """Do the part of one task of many; `merge_corpus` makes a corpus of what they did.

    Raises:
        UsageError: `out` holds something else.
        DataError: An input or the tokenizer cannot be used.
    """
    plan = _begin(request)
    if plan is None:
        return
    number, num_tasks = task.number, task.num_tasks or _num_tasks(WorkDir(request.out), task)
    tokens = _tokenize(request, plan, number, num_tasks)
    print(
        f"{request.out}: task {number} of {num_tasks} is done, {tokens:,} new tokens; when all are: "
        f"python -m data_prep merge {request.out}"
    )


def merge_corpus(out: Path, workers: int, strict: bool) -> None:
    """Make a corpus of finished tasks.

    Raises:
        DataError: Something is missing, and the message says which tasks are to be run again; nothing is
            left of the documents; or, if `strict`, some were damaged.
    """
    started = perf_counter()
    work = WorkDir(out)
    if not (out / MANIFEST_NAME).exists():
        plan = read_plan(work)
        check_complete(plan, work, _num_tasks(work))
        with work.locked():
            if not (out / MANIFEST_NAME).exists():  # nobody else has done it while we waited
                _finish(plan, work, workers, strict)
                print_summary(out, read_manifest(out), perf_counter() - started)
                return
    work.remove()
    print(f"{out}: already done; 'verify' checks it byte by byte")


def _finish(plan: Plan, work: WorkDir, workers: int, strict: bool) -> None:
    tokenizer = open_directory(work.tokenizer)
    ids = tokenizer.row_ids()
    found = read_reports(work, ids.vocab_size)
    if strict and found.damaged:
        raise DataError(
            f"{work.root.parent}: damaged records, which --strict does not allow{describe_damage(found)}"
        )
    reports = pack_shards(plan, work, ids, workers)
    counts = document_counts(found, reports)
    if counts.train == 0:
        work.remove()  # no corpus comes of it, and other options must not be refused for its sake
        raise DataError(f"no document is left to train on: {counts.told()}{describe_damage(found)}")
    print_warnings(found, counts, plan.settings.valid_fraction)
    command = work.command.read_text(encoding="utf-8").strip()
    publish(plan, work, found, reports, tokenizer, ids, command)


def _begin(request: Request) -> Plan | None:
    """The plan, settled in the working directory; None if the corpus is there already."""
    tokenizer = open_directory(request.tokenizer_dir)
    tokenizer.row_ids()  # what is missing is told here
    make_filter(filter_options(request.settings, request.hook))  # a mistake in it is told here, once
    plan = make_plan(request.sources, tokenizer.content_sha256(), request.settings)
    work = WorkDir(request.out)
    if (request.out / MANIFEST_NAME).exists():
        manifest = read_manifest(request.out)
        _check_is_the_same(request.out, manifest, plan, tokenizer)
        work.remove()
        print(
            f"{request.out}: already done, {len(manifest.shards)} shards; 'verify' checks them byte by byte"
        )
        return None
    _check_out(request.out)
    settle_plan(work, plan)
    if not work.tokenizer.exists():
        warn_of_other_readings(tokenizer)
        _write_tokenizer(tokenizer, work.tokenizer)
    create_atomically(work.command, request.command + "\n")
    return plan


def _tokenize(request: Request, plan: Plan, task: int, num_tasks: int) -> int:
    """Make the part files of a task; the number of tokens in the new ones."""
    work = WorkDir(request.out)
    write_atomically(work.num_tasks, f"{num_tasks}\n")
    tokenizer = open_directory(work.tokenizer)
    job = TokenizeTask(
        plan=plan,
        work=work,
        tokenizer_dir=work.tokenizer,
        vocab_size=tokenizer.vocab_size,
        special_ids=tuple({tokenizer.id_of(role) for role in _TAKEN_OUT if role in tokenizer.special_tokens}),
        hook=request.hook,
        backend=settle_backend(plan, work, request.backend),
        strict=request.strict,
    )
    tokens = 0
    warned = False
    for report in tokenize_segments(job, task_segments(plan, task, num_tasks), request.workers):
        tokens += report.tokens
        if report.warning and not warned:
            print(f"warning: {report.warning}", file=sys.stderr)
            warned = True
    return tokens


def _num_tasks(work: WorkDir, task: Task | None = None) -> int:
    """Into how many tasks the preparation was divided, last; for its first one, what its array says."""
    if work.num_tasks.is_file():
        num_tasks = int(work.num_tasks.read_text(encoding="utf-8"))
    else:
        num_tasks = 1 if task is None else task.array_size
    if task is not None and task.number >= num_tasks:
        raise UsageError(
            f"--task slurm: this is task {task.number}, but {work.root.parent} was begun with {num_tasks} "
            f"tasks, 0 to {num_tasks - 1}; for another number of tasks, write --task {task.number}/N"
        )
    return num_tasks


def _write_tokenizer(tokenizer: TokenizerDirectory, target: Path) -> None:
    """Several tasks may do this at once: the first one's copy is the one that stays."""
    partial = partial_of(target)
    tokenizer.framed().write(partial)
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(partial)


def _check_is_the_same(out: Path, manifest: Manifest, plan: Plan, tokenizer: TokenizerDirectory) -> None:
    """Refuse a finished corpus unless this very command would make it again."""
    differences = setting_differences(dict(manifest.settings), plan.settings)
    if not tokenizer.is_that_of(manifest.tokenizer_sha256, out / TOKENIZER_NAME):
        differences.append("the tokenizer is another one")
    before = {(entry.path, entry.bytes) for entry in manifest.inputs}
    now = {(entry.path, entry.bytes) for entry in plan.inputs}
    differences += [f"input {path} ({size} bytes) was not there" for path, size in sorted(now - before)]
    differences += [f"input {path} ({size} bytes) is no longer named" for path, size in sorted(before - now)]
    differences += source_differences(manifest.sources, plan.sources)
    if differences:
        told = "\n  ".join(differences)
        other_rows = all(line.startswith(("--length ", "--packing ")) for line in differences)
        repack = f", or make other rows of it with 'python -m data_prep repack {out}'" if other_rows else ""
        raise UsageError(
            f"{out} already holds a corpus made otherwise:\n  {told}\n"
            f"name another --out, or delete {out} and start again{repack}"
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
    if foreign or (present and WORK_NAME not in present):
        raise UsageError(
            f"--out {out} is not empty and no corpus (it holds {(foreign or present)[0]}); "
            "name a new directory"
        )
