"""`python -m data_prep shard`."""

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.arguments import (
    PACKINGS,
    Parser,
    Subparsers,
    add_command,
    add_inputs,
    add_length,
    add_workers,
    fraction,
    share,
    whole,
    workers_of,
)
from data_prep.errors import UsageError

if TYPE_CHECKING:
    from data_prep.shard import Task


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "shard",
        "tokenize, shuffle, pack and write a corpus",
        "Clean, filter and tokenize documents, remove duplicates, shuffle, pack into rows of T tokens and\n"
        "write Arrow shards. Some documents are held out, chosen by the hash of their text. The result does\n"
        "not depend on the number of workers or tasks. Killed, the same command goes on where it was;\n"
        "finished, it does nothing.",
        "corpora/books corpora/wiki.jsonl.gz --tokenizer corpora/tok --out corpora/mix512 --length 512",
    )
    add_inputs(parser)
    parser.add_argument(
        "--tokenizer", type=Path, required=True, metavar="DIR", help="a Hugging Face tokenizer directory"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="CORPUS", help="corpus directory to write")
    _add_rows(parser.add_argument_group("rows and shards"))
    _add_cleaning(parser.add_argument_group("cleaning and filtering; what is dropped is counted by reason"))
    _add_running(parser.add_argument_group("running"))


def _add_rows(group: argparse._ArgumentGroup) -> None:
    add_length(group)
    group.add_argument(
        "--packing",
        choices=PACKINGS,
        default="full",
        help="full: no padding, documents run over from row to row; document: rows never mix documents; "
        "best-fit: whole documents, many to a row (default: %(default)s)",
    )
    group.add_argument(
        "--valid-fraction",
        type=fraction,
        default=0.01,
        metavar="F",
        help="share of the documents held out for evaluation, 0 for none (default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="of the shuffle (default: %(default)s)"
    )
    group.add_argument(
        "--shards",
        type=whole(1),
        default=None,
        metavar="N",
        help="training shards (default: one per 512 MB of text)",
    )


def _add_cleaning(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--unicode",
        choices=("nfc", "nfkc", "none"),
        default="nfc",
        help="Unicode normalization; control characters are always removed (default: %(default)s)",
    )
    group.add_argument(
        "--min-chars",
        type=whole(0),
        default=0,
        metavar="N",
        help="drop documents of fewer characters (default: %(default)s)",
    )
    group.add_argument(
        "--max-chars", type=whole(1), default=None, metavar="N", help="drop longer ones (default: keep them)"
    )
    group.add_argument(
        "--max-symbols",
        type=share,
        default=0.4,
        metavar="F",
        help="drop documents with a larger share of symbols like #, { and | among their characters; "
        "1 keeps all (default: %(default)s)",
    )
    group.add_argument(
        "--max-repetition",
        type=share,
        default=0.8,
        metavar="F",
        help="drop documents of which a larger share repeats what came before in them; "
        "1 keeps all (default: %(default)s)",
    )
    group.add_argument(
        "--filter",
        metavar="MODULE:FUNCTION",
        help="a filter of your own, such as a language detector: it gets a text and returns None to keep it, "
        "or the reason to drop it",
    )
    group.add_argument("--keep-duplicates", action="store_true", help="keep documents whose text came before")
    group.add_argument(
        "--near-duplicates",
        action="store_true",
        help="also drop documents that nearly repeat another one (MinHash, similarity from about 0.7)",
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--task",
        metavar="I/N",
        help="do the part of task I of N (0/32 to 31/32), or 'slurm' for the number of this job in an array "
        "from 0 on; then 'merge'. The tasks may run at once, on any machines that share CORPUS",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first record that cannot be read, instead of counting",
    )
    group.add_argument(
        "--backend",
        choices=("auto", "huggingface", "gigatoken"),
        default="auto",
        help="auto: gigatoken for byte-level BPE where it is installed and gives the same tokens for a "
        "sample of this corpus (default: %(default)s)",
    )
    add_workers(group)


def run(arguments: argparse.Namespace, command: str) -> None:
    """Carry it out."""
    from data_prep.cleaning.hook import hook_identity
    from data_prep.commands.reading import read_inputs
    from data_prep.shard import Request, shard_corpus, shard_task
    from data_prep.stages.plan import Settings

    task = None if arguments.task is None else parse_task(arguments.task)
    settings = Settings(
        length=arguments.length,
        packing=arguments.packing,
        seed=arguments.seed,
        shards=arguments.shards,
        valid_fraction=arguments.valid_fraction,
        unicode=arguments.unicode,
        min_chars=arguments.min_chars,
        max_chars=arguments.max_chars,
        max_symbols=arguments.max_symbols,
        max_repetition=arguments.max_repetition,
        filter=None if arguments.filter is None else hook_identity(arguments.filter),
        keep_duplicates=arguments.keep_duplicates,
        near_duplicates=arguments.near_duplicates,
    )
    request = Request(
        sources=read_inputs(arguments),
        tokenizer_dir=arguments.tokenizer,
        out=arguments.out,
        settings=settings,
        hook=arguments.filter,
        backend=arguments.backend,
        strict=arguments.strict,
        workers=workers_of(arguments),
        command=command,
    )
    if task is None:
        shard_corpus(request)
    else:
        shard_task(request, task)


def parse_task(text: str) -> "Task":
    """`I/N`, or `slurm` for the number of a job in its array; a UsageError says what is wrong."""
    from data_prep.shard import Task

    if text == "slurm":
        try:
            number, last = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MAX"))
        except (KeyError, ValueError) as error:
            raise UsageError(
                "--task slurm: this is no job of an array; submit with sbatch --array=0-31"
            ) from error
        return Task(number, None, last + 1)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UsageError(f"--task {text}: expected I/N with I from 0 to N-1, such as 3/32, or slurm")
    return Task(int(match[1]), int(match[2]), int(match[2]))
