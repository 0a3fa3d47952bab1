"""`python -m data_prep merge`."""

import argparse
from pathlib import Path

from data_prep.arguments import Parser, Subparsers, add_command, add_workers, workers_of


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "merge",
        "make a corpus of what the tasks of 'shard --task' did",
        "Check that every task is finished, remove duplicates over all of them, shuffle, pack, write the\n"
        "manifest. If something is missing, it says which tasks are to be run again.",
        "corpora/mix512",
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="the --out of the tasks")
    parser.add_argument(
        "--strict", action="store_true", help="refuse if a record of the inputs could not be read"
    )
    add_workers(parser)


def run(arguments: argparse.Namespace, command: str) -> None:
    """Carry it out."""
    from data_prep.shard import merge_corpus

    merge_corpus(arguments.corpus, workers_of(arguments), arguments.strict)
