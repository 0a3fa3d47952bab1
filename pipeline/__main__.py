"""`python -m pipeline COMMAND`: runs a command and turns its outcome into an exit code."""

import argparse
import logging
import os
import sys
import traceback
import warnings

from data_prep.errors import EXIT_DONE, EXIT_FILES, EXIT_INTERRUPTED
from pipeline.arguments import Parser
from pipeline.commands import evaluate, export, plan, report, requeue, snapshot, status, study, train
from pipeline.errors import UserError, exit_code_of

_COMMANDS = {
    "train": train,
    "plan": plan,
    "evaluate": evaluate,
    "export": export,
    "report": report,
    "status": status,
    "snapshot": snapshot,
    "requeue": requeue,
    "study": study,
}

_READ_ONLY = ("plan", "status")  # whose output may be cut short


def build_parser() -> Parser:
    """The whole command line; `command` in the result names the subcommand."""
    parser = Parser(prog="python -m pipeline", description="Pretrain Transformer encoders with DeepSpeed.")
    # The deepspeed launcher passes this to what it starts; the environment says the same.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _COMMANDS.values():
        module.add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; a UserError becomes one message."""
    arguments = build_parser().parse_args(argv)
    try:
        _set_up_logging()
        return _COMMANDS[arguments.command].run(arguments)
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE if arguments.command in _READ_ONLY else EXIT_FILES
    except (UserError, OSError) as error:
        if str(error):
            print(f"error: {error}", file=sys.stderr, flush=True)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        return exit_code_of(error)


def _set_up_logging() -> None:
    import torch

    rank = os.environ.get("RANK", "0")
    prefix = f"[rank {rank}] " if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    logging.basicConfig(
        level=logging.INFO if rank == "0" else logging.WARNING,
        format=f"%(asctime)s {prefix}%(message)s",
        datefmt="%H:%M:%S",
    )
    for noisy in ("DeepSpeed", "torch.distributed", "datasets", "matplotlib", "absl"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # The libraries look at these when they are imported.
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # spares DeepSpeed a search and a warning
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would tell when it starts and stops
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # DeepSpeed's use of torch's collectives is not the user's business.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")


if __name__ == "__main__":
    sys.exit(main())
