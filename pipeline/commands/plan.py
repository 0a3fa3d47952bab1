"""`python -m pipeline plan`."""

import argparse

from data_prep.errors import EXIT_DONE
from pipeline.arguments import Parser, Subparsers, add_command, add_recipe, positive


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "plan",
        "what a recipe would cost: parameters, memory, steps, DeepSpeed configuration",
        "Show what a recipe would do, without training and without a GPU.",
    )
    add_recipe(parser)
    parser.add_argument(
        "--processes", type=positive, default=1, metavar="N", help="number of GPUs to plan for (default 1)"
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="what to plan for (default cuda); neither is used",
    )
    parser.add_argument(
        "--assume-length",
        type=positive,
        metavar="T",
        help="plan before there is a corpus: assume full rows of T tokens in all of the recipe's corpora; "
        "together with --assume-vocabulary",
    )
    parser.add_argument(
        "--assume-vocabulary", type=positive, metavar="V", help="and a tokenizer with V entries"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    from pipeline.config.assumed_corpus import assume
    from pipeline.config.checks import World
    from pipeline.planning.plan import print_plan

    world = World(world_size=arguments.processes, on_cuda=arguments.device == "cuda")
    assumed = assume(arguments.assume_length, arguments.assume_vocabulary)
    print_plan(arguments.recipe, arguments.overrides, world, as_json=arguments.json, assumed=assumed)
    return EXIT_DONE
