"""`python -m data_prep inspect`."""

import argparse
from pathlib import Path

from data_prep.arguments import Parser, Subparsers, add_command, whole
from data_prep.errors import UsageError

# Not argparse's default: it would not notice the option beside --rows when it has just this value.
_SAMPLE = 2


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "inspect",
        "show a corpus: counts, lengths, frequent tokens, rows, dropped documents",
        "Show what a corpus holds: counts, lengths of the document pieces, frequent tokens, how well the\n"
        "tokenizer fits, and rows as text with the borders of their documents. Or only the rows with given\n"
        "numbers, such as those that training names when its loss jumps.",
        "corpora/docs512 --rows 17 204",
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="a corpus directory")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--rows",
        type=whole(0),
        nargs="+",
        metavar="N",
        help="show these rows and nothing else; rows count from 0 through all shards of the split",
    )
    shown.add_argument(
        "--sample", type=whole(0), metavar="N", help=f"random rows to decode (default: {_SAMPLE})"
    )
    shown.add_argument(
        "--dropped", action="store_true", help="show a sample of the documents that were left out, by reason"
    )
    parser.add_argument(
        "--split",
        choices=("train", "valid"),
        default="train",
        help="whose rows are looked at (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="chooses the sample (default: %(default)s)"
    )
    parser.add_argument(
        "--png", type=Path, metavar="FILE.png", help="also write lengths and token frequencies as a figure"
    )


def run(arguments: argparse.Namespace, command: str) -> None:
    """Carry it out."""
    from data_prep.inspection.dropped import print_dropped
    from data_prep.inspection.show import inspect_corpus, show_rows

    if arguments.png is not None and (arguments.rows is not None or arguments.dropped):
        raise UsageError("--png draws a random sample; leave it out beside --rows and --dropped")
    if arguments.dropped:
        print_dropped(arguments.corpus)
    elif arguments.rows is not None:
        show_rows(arguments.corpus, arguments.split, arguments.rows)
    else:
        num_rows = _SAMPLE if arguments.sample is None else arguments.sample
        inspect_corpus(arguments.corpus, arguments.split, num_rows, arguments.seed, arguments.png)
