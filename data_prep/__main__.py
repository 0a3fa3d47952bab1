"""`python -m data_prep COMMAND`: runs a command and turns its outcome into an exit code."""

import argparse
import errno
import os
import shlex
import signal
import sys
import traceback
from typing import NoReturn

from data_prep.arguments import Parser
from data_prep.commands import inspect, merge, repack, sample, shard, tokenizer, verify
from data_prep.errors import (
    EXIT_DONE,
    EXIT_FILES,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    EXIT_USAGE,
    UserError,
)

_COMMANDS = {
    "sample": sample,
    "tokenizer": tokenizer,
    "shard": shard,
    "merge": merge,
    "repack": repack,
    "inspect": inspect,
    "verify": verify,
}


_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class _Stopped(BaseException):
    """A request to stop; no Exception, so that nothing takes it for an error of its own."""


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code; the one place where errors become messages."""
    argv = sys.argv[1:] if argv is None else argv
    if (wrong := _not_utf8(argv)) is not None:
        print(f"error: {wrong}: not UTF-8, as a corpus keeps its command; rename the file", file=sys.stderr)
        return EXIT_USAGE
    arguments = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    try:
        _COMMANDS[arguments.command].run(arguments, shlex.join(["python", "-m", "data_prep", *argv]))
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"interrupted{_going_on(arguments.command)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except _Stopped:
        print(f"stopped by SIGTERM{_going_on(arguments.command)}", file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        hint = f"; make room{_going_on(arguments.command)}" if error.errno in _FULL_DISK else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return EXIT_FILES
    except Exception:
        traceback.print_exc()
        return EXIT_INTERNAL
    return EXIT_DONE


def _not_utf8(argv: list[str]) -> str | None:
    """The first argument that is not UTF-8, made printable."""
    printable = [os.fsencode(argument).decode("utf-8", "backslashreplace") for argument in argv]
    return next((shown for shown, argument in zip(printable, argv) if shown != argument), None)


def _stop(signal_number: int, frame: object) -> NoReturn:
    raise _Stopped


def _going_on(command: str) -> str:
    is_kept = command in ("shard", "merge", "repack")
    return "; what is finished is kept, and the same command goes on" if is_kept else ""


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
            "exit codes: 0 done; 64 usage; 65 bad data; 70 internal error; 74 file trouble;\n"
            "75 stopped by SIGTERM, start the same command again; 130 interrupted"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _COMMANDS.values():
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
