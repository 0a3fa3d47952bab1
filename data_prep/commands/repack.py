"""`python -m data_prep repack`."""

import argparse
from pathlib import Path

from data_prep.arguments import (
    PACKINGS,
    Parser,
    Subparsers,
    add_command,
    add_length,
    add_workers,
    workers_of,
)


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "repack",
        "the same documents in rows of another length, without tokenizing again",
        "Pack the documents of a finished corpus anew. The result is what 'shard' would have made with the\n"
        "other length or packing.",
        "corpora/mix512 --out corpora/mix128 --length 128",
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="a corpus directory")
    parser.add_argument("--out", type=Path, required=True, metavar="CORPUS", help="corpus directory to write")
    add_length(parser)
    parser.add_argument(
        "--packing",
        choices=PACKINGS,
        default=None,
        help="see 'shard --help' (default: as the corpus has it)",
    )
    add_workers(parser)


def run(arguments: argparse.Namespace, command: str) -> None:
    """Carry it out."""
    from data_prep.repack import repack_corpus

    workers = workers_of(arguments)
    repack_corpus(arguments.corpus, arguments.out, arguments.length, arguments.packing, workers, command)
