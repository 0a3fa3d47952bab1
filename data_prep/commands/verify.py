"""`python -m data_prep verify`."""

import argparse
from pathlib import Path

from data_prep.arguments import Parser, Subparsers, add_command


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "verify",
        "check every byte of a corpus against its manifest",
        "Check a corpus: the tokenizer, and every shard's size, hash, row count, token ids, document pieces\n"
        "and the order of its rows. Tells everything that is wrong and exits 65, or prints ok.",
        "corpora/docs512",
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="a corpus directory")


def run(arguments: argparse.Namespace, command: str) -> None:
    """Carry it out."""
    from data_prep.verify import verify_corpus

    verify_corpus(arguments.corpus)
