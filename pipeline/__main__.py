"""Command line: python -m pipeline train | plan | evaluate | export | report."""

import argparse
import logging
import os
import sys
import traceback
import warnings
from typing import Any, NoReturn

from data_prep.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE
from pipeline.errors import EXIT_STOPPED, UserError, exit_code_of


class _Parser(argparse.ArgumentParser):
    """Usage mistakes end with sysexits' code and are told by one process only."""

    def __init__(self, **settings: Any) -> None:
        # What is not written out in full could not be taken out again for the processes started.
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        if os.environ.get("RANK", "0") == "0":
            self.print_usage(sys.stderr)
            print(f"error: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = _Parser(prog="python -m pipeline", description="Pretrain Transformer encoders with DeepSpeed.")
    # The deepspeed launcher passes this to what it starts; the environment says the same.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="run a recipe, or go on with it",
        description="Run a recipe. Started twice, it resumes at the newest good checkpoint of its run_dir.",
    )
    _add_recipe(train)
    train.add_argument(
        "--processes",
        type=_positive,
        metavar="N",
        help="start N processes on this machine (one per GPU); leave it out under torchrun or deepspeed",
    )
    train.add_argument(
        "--resume",
        choices=("auto", "required"),
        default="auto",
        help="auto (the default): resume if there is a checkpoint; required: fail if there is none",
    )
    train.add_argument("--fresh", action="store_true", help="refuse a run_dir that already holds a run")
    train.add_argument(
        "--accept-changes", action="store_true", help="resume although the recipe differs from the run's"
    )
    train.add_argument(
        "--stop-at", type=_positive, metavar="STEP", help="save and stop after this step (exit code 75)"
    )
    train.set_defaults(action=_train)

    plan = commands.add_parser(
        "plan",
        help="what a recipe would cost: parameters, memory, steps, DeepSpeed configuration",
        description="Show what a recipe would do, without training and without a GPU.",
    )
    _add_recipe(plan)
    plan.add_argument(
        "--processes", type=_positive, default=1, metavar="N", help="number of GPUs to plan for (default 1)"
    )
    plan.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="what to plan for (default cuda); neither is used",
    )
    plan.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    plan.set_defaults(action=_plan)

    evaluate = commands.add_parser(
        "evaluate",
        help="held-out loss and perplexity of a run",
        description="Evaluate the newest good checkpoint on the held-out rows; writes RUN/evaluation.json.",
    )
    _add_run(evaluate)
    evaluate.add_argument(
        "--max-rows", type=_positive, metavar="N", help="use only the first N held-out rows"
    )
    evaluate.set_defaults(action=_evaluate)

    export = commands.add_parser(
        "export",
        help="write a run's model as a Hugging Face directory",
        description="Write the newest good checkpoint as a Hugging Face directory with the run's logits.",
    )
    _add_run(export)
    export.add_argument("--out", metavar="DIR", help="a new directory (default: RUN/export)")
    export.set_defaults(action=_export)

    report = commands.add_parser(
        "report",
        help="a page with a run's curves and attention maps",
        description="Write RUN/report/report.html and its figures.",
    )
    _add_run(report)
    report.set_defaults(action=_report)
    return parser


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="the run_dir of a recipe that was trained")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, write 1 or more")
    return number


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
    if arguments.processes is not None:
        from pipeline.launch import launch_copies

        return launch_copies(arguments.processes)
    from pipeline.distributed import Cluster
    from pipeline.start import StartOptions
    from pipeline.train import train

    options = StartOptions(
        fresh=arguments.fresh,
        must_resume=arguments.resume == "required",
        accept_changes=arguments.accept_changes,
    )
    cluster = Cluster.from_environment()
    try:
        done = train(arguments.recipe, arguments.overrides, options, arguments.stop_at, cluster)
    finally:
        cluster.stop()
    return EXIT_DONE if done else EXIT_STOPPED


def _plan(arguments: argparse.Namespace) -> int:
    from pipeline.plan import print_plan

    on_cuda = arguments.device == "cuda"
    print_plan(arguments.recipe, arguments.overrides, arguments.processes, on_cuda, arguments.json)
    return EXIT_DONE


def _evaluate(arguments: argparse.Namespace) -> int:
    from pipeline.evaluation.evaluate import evaluate_run

    evaluate_run(arguments.run, arguments.max_rows)
    return EXIT_DONE


def _export(arguments: argparse.Namespace) -> int:
    from pipeline.export import export_run

    export_run(arguments.run, arguments.out)
    return EXIT_DONE


def _report(arguments: argparse.Namespace) -> int:
    from pipeline.report.page import write_report

    write_report(arguments.run)
    return EXIT_DONE


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; a UserError becomes one message."""
    arguments = build_parser().parse_args(argv)
    try:
        _set_up_logging()
        return arguments.action(arguments)
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
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # DeepSpeed's use of torch's collectives is not the user's business.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")


if __name__ == "__main__":
    sys.exit(main())
