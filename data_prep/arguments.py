"""The command lines of `python -m data_prep`."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data_prep.errors import EXIT_USAGE

SAMPLE_MAX_BYTES = 16_000_000
VOCAB_SIZE = 32_768
SHARD_ROWS = 65_536
MIN_LENGTH, MAX_LENGTH = 8, 65_535  # a piece's length is stored in 16 bits


class Parser(argparse.ArgumentParser):
    """Exits with 64 on a wrong command line; 2 means something else to batch systems."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and where to read on."""
        print(f"error: {message}\nsee '{self.prog} --help'", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def build_parser() -> Parser:
    """The whole command line; `command` in the result names the subcommand."""
    parser = Parser(
        prog="python -m data_prep",
        description=(
            "Prepare a corpus for pretraining: documents -> tokenizer -> packed Arrow shards.\n"
            "Every command takes --help."
        ),
        epilog=(
            "example, from nothing to a corpus:\n"
            "  python -m data_prep sample corpora/docs.jsonl\n"
            "  python -m data_prep tokenizer corpora/docs.jsonl --out corpora/tok --vocab-size 8192\n"
            "  python -m data_prep shard corpora/docs.jsonl --tokenizer corpora/tok \\\n"
            "      --length 512 --out corpora/docs512\n"
            "  python -m data_prep verify corpora/docs512\n\n"
            "exit codes: 0 done; 64 usage; 65 bad data; 74 file trouble; 70 internal error; 130 interrupted"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_sample, _add_tokenizer, _add_shard, _add_inspect, _add_verify):
        add(commands)
    return parser


def _command(
    commands: "argparse._SubParsersAction[Parser]", name: str, summary: str, description: str, example: str
) -> Parser:
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n  python -m data_prep {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_sample(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(
        commands,
        "sample",
        "a small English corpus from the Python libraries installed here",
        "Collect the documentation strings of the installed Python libraries and the standard library\n"
        "as JSON lines, one document per module or class. Needs no network; files are parsed, not imported.",
        "corpora/docs.jsonl",
    )
    parser.add_argument("out", type=Path, metavar="OUT.jsonl", help="the file to write")
    parser.add_argument(
        "--max-bytes",
        type=_whole(1),
        default=SAMPLE_MAX_BYTES,
        metavar="N",
        help="size limit of the file; modules come in a fixed shuffled order (default: %(default)s)",
    )


def _add_tokenizer(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(
        commands,
        "tokenizer",
        "train a tokenizer",
        "Train a tokenizer and save it as a Hugging Face tokenizer directory. The same inputs and options\n"
        "give the same tokenizer. A sample of a large corpus is enough: a few gigabytes of text.",
        "'corpora/*.jsonl.zst' --out corpora/tok --vocab-size 32768",
    )
    _add_inputs(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="tokenizer directory to write")
    parser.add_argument(
        "--kind",
        choices=("bpe", "wordpiece"),
        default="bpe",
        help="bpe: byte-level, <s> X </s>, as RoBERTa; wordpiece: [CLS] X [SEP], as BERT "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--vocab-size",
        type=_whole(1),
        default=VOCAB_SIZE,
        metavar="N",
        help="entries, special tokens included; up to 65536 are stored in 16 bits, and a multiple of 64 "
        "suits GPUs (default: %(default)s)",
    )
    parser.add_argument(
        "--min-frequency",
        type=_whole(1),
        default=2,
        metavar="N",
        help="a pair seen less often is not merged (default: %(default)s)",
    )
    parser.add_argument("--lowercase", action="store_true", help="lower-case all text")
    parser.add_argument("--overwrite", action="store_true", help="replace a different tokenizer in DIR")


def _add_shard(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(
        commands,
        "shard",
        "tokenize, pack and write a corpus",
        "Tokenize documents, pack them into rows of T tokens and write Arrow shards. Drops empty and\n"
        "repeated documents and holds some out, chosen by the hash of their text. The result does not\n"
        "depend on the number of workers. Killed, it is started over by the same command; finished, the\n"
        "same command does nothing.",
        "corpora/books corpora/wiki.jsonl.gz --tokenizer corpora/tok --out corpora/mix512 --length 512",
    )
    _add_inputs(parser)
    parser.add_argument(
        "--tokenizer", type=Path, required=True, metavar="DIR", help="a Hugging Face tokenizer directory"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="CORPUS", help="corpus directory to write")
    parser.add_argument(
        "--length",
        type=_whole(MIN_LENGTH, MAX_LENGTH),
        required=True,
        metavar="T",
        help="tokens per row (8 to 65535)",
    )
    parser.add_argument(
        "--valid-fraction",
        type=_fraction,
        default=0.01,
        metavar="F",
        help="share of the documents held out for evaluation, 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--min-chars",
        type=_whole(0),
        default=0,
        metavar="N",
        help="drop documents of fewer characters (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-duplicates", action="store_true", help="keep documents whose text came before"
    )
    parser.add_argument(
        "--shard-rows",
        type=_whole(1),
        default=SHARD_ROWS,
        metavar="N",
        help="rows per shard file (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=_whole(1),
        default=None,
        metavar="N",
        help="tokenizing processes (default: one per core this process may use)",
    )


def _add_inspect(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(
        commands,
        "inspect",
        "show a corpus: counts, lengths, frequent tokens, random rows",
        "Show what a corpus holds: counts, lengths of the document pieces, frequent tokens, and random\n"
        "rows as text, one piece per line.",
        "corpora/docs512 --rows 5",
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="a corpus directory")
    parser.add_argument(
        "--rows", type=_whole(0), default=2, metavar="N", help="random rows to decode (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=_whole(0), default=0, metavar="N", help="chooses the rows (default: %(default)s)"
    )


def _add_verify(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(
        commands,
        "verify",
        "check every byte of a corpus against its manifest",
        "Check a corpus: the tokenizer, and every shard's size, hash, row count, token ids and segments.\n"
        "Tells everything that is wrong and exits 65, or prints ok.",
        "corpora/docs512",
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="a corpus directory")


def _add_inputs(parser: Parser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=".txt, .jsonl or .json files (one JSON object per line), also with .gz, .xz or .zst; "
        "directories; patterns like 'data/*.txt'",
    )
    parser.add_argument(
        "--text-field",
        default="text",
        metavar="NAME",
        help="field of a JSON line that holds the text (default: %(default)s)",
    )
    parser.add_argument(
        "--text-documents",
        choices=("file", "block", "line"),
        default="file",
        help="what a document is in a .txt file: the file, a block between blank lines, a line "
        "(default: %(default)s)",
    )


def _whole(smallest: int, largest: int | None = None) -> Callable[[str], int]:
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


def _fraction(text: str) -> float:
    """An argparse type: a share of the documents that leaves some to train on."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return value
