"""`python -m data_prep sample`."""

import argparse
from pathlib import Path

from data_prep.arguments import Parser, Subparsers, add_command, whole
from data_prep.errors import UsageError

_MAX_BYTES = 16_000_000


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "sample",
        "a small English corpus from the Python libraries installed here",
        "Collect the documentation strings of the installed Python libraries and the standard library\n"
        "as JSON lines, one document per module or class. Needs no network; files are parsed, not imported.",
        "corpora/docs.jsonl",
    )
    parser.add_argument("out", type=Path, metavar="OUT.jsonl", help="the file to write")
    parser.add_argument(
        "--max-bytes",
        type=whole(1),
        default=_MAX_BYTES,
        metavar="N",
        help="size limit of the file; modules come in a fixed shuffled order (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")


def run(arguments: argparse.Namespace, command: str) -> None:
    """Carry it out."""
    from data_prep.sample import write_sample

    if arguments.out.exists() and not arguments.overwrite:
        raise UsageError(
            f"{arguments.out} is there already; name another file, or replace it with --overwrite"
        )
    num_documents, num_bytes = write_sample(arguments.out, arguments.max_bytes)
    print(f"{arguments.out}: {num_documents:,} documents, {num_bytes / 1e6:.1f} MB")
