"""What the command lines of `python -m data_prep` share: the parser, types of values, common options."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data_prep.errors import EXIT_USAGE

PACKINGS = ("full", "document", "best-fit")
MIN_LENGTH, MAX_LENGTH = 8, 65_535  # a piece's length is stored in 16 bits

Subparsers = argparse._SubParsersAction


class Parser(argparse.ArgumentParser):
    """Exits with 64 on a wrong command line; 2 means something else to batch systems."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and where to read on."""
        print(f"error: {message}\nsee '{self.prog} --help'", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def add_command(
    commands: "Subparsers[Parser]", name: str, summary: str, description: str, example: str
) -> Parser:
    """A subcommand whose --help ends in an example."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n  python -m data_prep {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_inputs(parser: Parser) -> None:
    """INPUT..., or --mix; what `read_inputs` takes."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="files, directories, patterns like 'data/*.jsonl.zst', or @LIST, a file with one of these per "
        "line. Read are .txt, .jsonl (.json, .ndjson), .csv, .tsv, .parquet and .arrow (.feather), each also "
        "with .gz, .bz2, .xz or .zst, and directories written by datasets' save_to_disk",
    )
    parser.add_argument(
        "--mix",
        type=Path,
        metavar="MIX.yaml",
        help="several corpora instead of INPUT: a YAML list of {name, inputs, text_field, text_documents, "
        "quoting, encoding, repeat}, see docs/data.md",
    )
    parser.add_argument(
        "--text-field",
        action="append",
        metavar="NAME",
        help="field or column that holds the text (default: text); given several times, the texts are joined "
        "by a blank line",
    )
    parser.add_argument(
        "--text-documents",
        choices=("file", "block", "line"),
        default="file",
        help="what a document is in a .txt file: the file, a block between blank lines, a line "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--quoting",
        choices=("standard", "none"),
        default="standard",
        help="none: quotes in .csv and .tsv files are characters like any other, as in GLUE's "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--encoding",
        type=encoding,
        default="utf-8",
        metavar="CODEC",
        help="of text, JSON lines, .csv and .tsv, as Python names it: cp1252, utf-16, shift_jis; or auto, a "
        "guess from the beginning of each file (default: %(default)s)",
    )


def encoding(text: str) -> str:
    """An argparse type: an encoding of text files, in its one spelling."""
    from data_prep.inputs.encodings import text_encoding

    try:
        return text_encoding(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_length(parser: argparse._ActionsContainer) -> None:
    """--length."""
    parser.add_argument(
        "--length",
        type=whole(MIN_LENGTH, MAX_LENGTH),
        required=True,
        metavar="T",
        help=f"tokens per row ({MIN_LENGTH} to {MAX_LENGTH})",
    )


def add_workers(parser: argparse._ActionsContainer) -> None:
    """--workers; `workers_of` gives the number."""
    parser.add_argument(
        "--workers",
        type=whole(1),
        default=None,
        metavar="N",
        help="processes (default: one per core this process may use)",
    )


def workers_of(arguments: argparse.Namespace) -> int:
    """The number of worker processes asked for."""
    from data_prep.parallel import available_cores

    return arguments.workers or available_cores()


def whole(smallest: int, largest: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number within limits."""
    limits = f"of {smallest} or more" if largest is None else f"from {smallest} to {largest}"

    def parse(text: str) -> int:
        try:
            value = int(text.replace("_", ""))
        except ValueError:
            value = smallest - 1
        if value < smallest or (largest is not None and value > largest):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return value

    return parse


def share(text: str) -> float:
    """An argparse type: a share from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def fraction(text: str) -> float:
    """An argparse type: a share of the documents that leaves some to train on."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
