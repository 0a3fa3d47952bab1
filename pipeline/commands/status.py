"""`python -m pipeline status`."""

import argparse
import json
from datetime import datetime, timezone

from data_prep.errors import EXIT_DONE
from pipeline.arguments import Parser, Subparsers, add_command, add_run


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "status",
        "what became of a run: state, progress, checkpoints, events",
        "Tell what became of a run, while it runs or afterwards, from its files alone.",
    )
    add_run(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--verify", action="store_true", help="compare the hash of every checkpoint's files")


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    from pipeline.runs.status import gather_status, open_run
    from pipeline.runs.status_text import render_status

    status = gather_status(open_run(arguments.run), arguments.verify, datetime.now(timezone.utc))
    print(json.dumps(status.to_json()) if arguments.json else render_status(status))
    return EXIT_DONE
