"""`python -m pipeline evaluate`."""

import argparse

from data_prep.errors import EXIT_DONE
from pipeline.arguments import Parser, Subparsers, add_command, add_run, positive


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "evaluate",
        "held-out loss and perplexity of a run",
        "Evaluate the newest good checkpoint on the held-out rows; writes RUN/evaluation.json.",
    )
    add_run(parser)
    parser.add_argument("--max-rows", type=positive, metavar="N", help="use only the first N held-out rows")


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    from pipeline.evaluation.evaluate import evaluate_run

    evaluate_run(arguments.run, arguments.max_rows)
    return EXIT_DONE
