"""`python -m data_prep inspect`."""

import argparse
from pathlib import Path

from data_prep.arguments import Parser, Subparsers, add_command, whole


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "inspect",
        "show a corpus: counts, lengths, frequent tokens, rows, dropped documents",
        "Show what a corpus holds: counts, lengths of the document pieces, frequent tokens, how well the\n"
        "tokenizer fits, and rows as text with the borders of their documents.",
        "corpora/docs512 --rows 5",
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="a corpus directory")
    parser.add_argument(
        "--rows", type=whole(0), default=2, metavar="N", help="random rows to decode (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="chooses the rows (default: %(default)s)"
    )
    parser.add_argument(
        "--dropped", action="store_true", help="show a sample of the documents that were left out, by reason"
    )
    parser.add_argument(
        "--png", type=Path, metavar="FILE.png", help="also write lengths and token frequencies as a figure"
    )


def run(arguments: argparse.Namespace, command: str) -> None:
    """Carry it out."""
    from data_prep.inspection.dropped import print_dropped
    from data_prep.inspection.show import inspect_corpus

    if arguments.dropped:
        print_dropped(arguments.corpus)
    else:
        inspect_corpus(arguments.corpus, arguments.rows, arguments.seed, arguments.png)
