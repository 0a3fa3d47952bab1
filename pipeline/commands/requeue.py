"""`python -m pipeline requeue`."""

import argparse

from data_prep.errors import EXIT_DONE
from pipeline.arguments import Parser, Subparsers, add_command, add_run, positive

EXIT_NOT_REQUEUED = 1  # an answer rather than a failure; no other command ends with it


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "requeue",
        "whether a job whose training has ended is to be queued again; used by slurm/train.sbatch",
        "Decide by the exit code of training and the run's history whether the SLURM job is to be queued\n"
        "again, and write that to the run's events. It does not do it.\n"
        "Exit code 0: requeue; 1: do not; 64, 74 and so on: no decision, do not.",
    )
    add_run(parser)
    parser.add_argument(
        "--exit-code", type=int, required=True, metavar="N", help="what training ended with, as srun tells it"
    )
    parser.add_argument(
        "--max-without-progress",
        type=positive,
        default=3,
        metavar="N",
        help="so many requeues of a job may pass without a newer checkpoint (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    from pipeline.runs.requeue import decide_requeue

    is_wanted = decide_requeue(arguments.run, arguments.exit_code, arguments.max_without_progress)
    return EXIT_DONE if is_wanted else EXIT_NOT_REQUEUED
