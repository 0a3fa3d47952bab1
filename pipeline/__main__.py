"""Command line: python -m pipeline train | plan | evaluate | export | report."""

import argparse
import logging
import os
import sys
import traceback
from typing import NoReturn

from data_prep.errors import EXIT_DONE, EXIT_INTERNAL, EXIT_USAGE
from pipeline.errors import EXIT_STOPPED, UserError


class _Parser(argparse.ArgumentParser):
    """Usage mistakes end with sysexits' code and are told by one process only."""

    def error(self, message: str) -> NoReturn:
        if os.environ.get("RANK", "0") == "0":
            self.print_usage(sys.stderr)
            print(f"error: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = _Parser(prog="python -m pipeline", description="Pretrain Transformer encoders with DeepSpeed.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="run a recipe, or go on with it",
        description="Run a recipe. Started twice, it resumes at the newest good checkpoint of its run_dir.",
    )
    _add_recipe(train)
    train.add_argument("--fresh", action="store_true", help="refuse a run_dir that already holds a run")
    train.add_argument(
        "--accept-changes", action="store_true", help="resume although the recipe differs from the run's"
    )
    train.add_argument("--stop-at", type=int, metavar="STEP", help="save and stop after this step (exit code 75)")
    train.set_defaults(action=_train)
    return parser


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of one that comes along")
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a value of the recipe, for example --set guidance.weight=0; may be repeated",
    )


def _train(arguments: argparse.Namespace) -> int:
    from pipeline.distributed import Cluster
    from pipeline.start import StartOptions
    from pipeline.train import train

    options = StartOptions(fresh=arguments.fresh, accept_changes=arguments.accept_changes)
    cluster = Cluster.from_environment()
    try:
        done = train(arguments.recipe, arguments.overrides, options, arguments.stop_at, cluster)
    finally:
        cluster.stop()
    return EXIT_DONE if done else EXIT_STOPPED


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; a UserError becomes one message."""
    arguments = build_parser().parse_args(argv)
    _set_up_logging()
    try:
        return arguments.action(arguments)
    except UserError as error:
        if str(error):
            print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        return EXIT_INTERNAL


def _set_up_logging() -> None:
    rank = int(os.environ.get("RANK", 0))
    prefix = f"[rank {rank}] " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s {prefix}%(message)s",
        datefmt="%H:%M:%S",
    )
    for noisy in ("DeepSpeed", "torch.distributed", "datasets", "matplotlib", "absl"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # Both libraries choose their verbosity when they are imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DS_LOG_LEVEL", "error")


if __name__ == "__main__":
    sys.exit(main())
