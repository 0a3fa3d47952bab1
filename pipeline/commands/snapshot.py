"""`python -m pipeline snapshot`."""

import argparse

from data_prep.errors import EXIT_DONE
from pipeline.arguments import Parser, Subparsers, add_command, add_recipe


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "snapshot",
        "copy code and recipe into the run's directory, for jobs that start later or again",
        "Copy the code and the recipe, overrides applied, into RUN/snapshots/ and print the directory.\n"
        "A job submitted with it runs what was copied, whatever is edited meanwhile:\n"
        '  sbatch slurm/train.sbatch "$(python -m pipeline snapshot RECIPE)"',
    )
    add_recipe(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    from pipeline.runs.snapshot import take_snapshot

    print(take_snapshot(arguments.recipe, arguments.overrides))
    return EXIT_DONE
