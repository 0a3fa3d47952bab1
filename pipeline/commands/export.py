"""`python -m pipeline export`."""

import argparse

from data_prep.errors import EXIT_DONE
from pipeline.arguments import Parser, Subparsers, add_command, add_corpora, add_run


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "export",
        "write a run's model as a Hugging Face directory",
        "Write the newest good checkpoint as a Hugging Face directory with the run's logits.",
    )
    add_run(parser)
    add_corpora(parser)
    parser.add_argument("--out", metavar="DIR", help="a new directory (default: RUN/export)")
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="of an objective with several networks: which one, such as generator of electra, in "
        "RUN/export-NAME (default: the one that is evaluated)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    from pipeline.export import export_run

    print(export_run(arguments.run, arguments.out, arguments.corpora, arguments.network))
    return EXIT_DONE
