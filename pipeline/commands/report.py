"""`python -m pipeline report`."""

import argparse

from data_prep.errors import EXIT_DONE
from pipeline.arguments import Parser, Subparsers, add_command, add_corpora, add_run


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "report",
        "a page with a run's curves and attention maps",
        "Write RUN/report/report.html and its figures.",
    )
    add_run(parser)
    add_corpora(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    from pipeline.report.page import write_report

    write_report(arguments.run, arguments.corpora)
    return EXIT_DONE
