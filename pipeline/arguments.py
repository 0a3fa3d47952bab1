"""What the command lines of `python -m pipeline` share: the parser and common options."""

import argparse
import os
import sys
from typing import Any, NoReturn

from data_prep.errors import EXIT_USAGE

Subparsers = argparse._SubParsersAction


class Parser(argparse.ArgumentParser):
    """Usage mistakes end with sysexits' code and are told by one process only."""

    def __init__(self, **settings: Any) -> None:
        """An option must be written out in full: otherwise it could not be taken out again for copies."""
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print the mistake and where to read on."""
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {message}\nsee '{self.prog} --help'", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def add_command(commands: "Subparsers[Parser]", name: str, summary: str, description: str) -> Parser:
    """A subcommand."""
    return commands.add_parser(
        name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_run(parser: Parser) -> None:
    """RUN."""
    parser.add_argument("run", metavar="RUN", help="the run_dir of a recipe that was trained")


def add_corpora(parser: Parser) -> None:
    """--corpus."""
    parser.add_argument(
        "--corpus",
        dest="corpora",
        action="append",
        default=[],
        metavar="DIR",
        help="where the run's corpus is now, if it is not found; its content must be the same; may be "
        "repeated for a run with several",
    )


def add_recipe(parser: Parser) -> None:
    """RECIPE and --set."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of one that comes along")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a value of the recipe, for example --set guidance.weight=0; may be repeated",
    )


def positive_float(text: str) -> float:
    """Type of an option: a number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, write a number above 0")
    return number


def positive(text: str) -> int:
    """Type of an option: an integer from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, write 1 or more")
    return number
