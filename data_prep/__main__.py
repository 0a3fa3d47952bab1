"""`python -m data_prep COMMAND`: runs a command and turns its outcome into an exit code."""

import argparse
import os
import shlex
import sys
import traceback

from data_prep.arguments import Parser
from data_prep.commands import inspect, merge, repack, sample, shard, tokenizer, verify
from data_prep.errors import EXIT_DONE, EXIT_FILES, EXIT_INTERNAL, EXIT_INTERRUPTED, UserError

_COMMANDS = {
    "sample": sample,
    "tokenizer": tokenizer,
    "shard": shard,
    "merge": merge,
    "repack": repack,
    "inspect": inspect,
    "verify": verify,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code; the one place where errors become messages."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    try:
        _COMMANDS[arguments.command].run(arguments, shlex.join(["python", "-m", "data_prep", *argv]))
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FILES
    except Exception:
        traceback.print_exc()
        return EXIT_INTERNAL
    return EXIT_DONE


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
    for module in _COMMANDS.values():
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
