"""`python -m pipeline train`."""

import argparse

from data_prep.errors import EXIT_DONE
from pipeline.arguments import Parser, Subparsers, add_command, add_recipe, positive
from pipeline.errors import EXIT_STOPPED


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "train",
        "run a recipe, or go on with it",
        "Run a recipe. Started twice, it resumes at the newest good checkpoint of its run_dir.",
    )
    add_recipe(parser)
    parser.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="start N processes on this machine (one per GPU); not under srun, torchrun or deepspeed",
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "required"),
        default="auto",
        help="auto (the default): resume if there is a checkpoint; required: fail if there is none",
    )
    parser.add_argument("--fresh", action="store_true", help="refuse a run_dir that already holds a run")
    parser.add_argument(
        "--accept-changes", action="store_true", help="resume although the recipe differs from the run's"
    )
    parser.add_argument(
        "--stop-at", type=positive, metavar="STEP", help="save and stop after this step (exit code 75)"
    )
    parser.add_argument(
        "--stop-signal",
        choices=("SIGUSR1", "SIGXCPU", "SIGURG", "SIGQUIT"),  # what batch systems send, beside ours
        help="one more signal that means: save and stop, beside SIGUSR2, SIGTERM, SIGHUP and SIGINT",
    )
    parser.add_argument(
        "--profile",
        type=positive,
        metavar="N",
        dest="profile_steps",
        help="profile N steps, a few steps after the start: RUN/profile/ gets a trace of every process (for "
        "ui.perfetto.dev) and a table of what the time goes into; slower steps, but the same numbers",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    if arguments.processes is not None:
        from pipeline.processes.launch import launch_copies

        return launch_copies(arguments.processes, arguments.stop_signal)
    from pipeline.processes.cluster import Cluster
    from pipeline.runs.start import StartOptions
    from pipeline.training.train import TrainOptions, train

    options = TrainOptions(
        start=StartOptions(
            fresh=arguments.fresh,
            must_resume=arguments.resume == "required",
            accept_changes=arguments.accept_changes,
        ),
        stop_at=arguments.stop_at,
        stop_signal=arguments.stop_signal,
        profile_steps=arguments.profile_steps,
    )
    cluster = Cluster.from_environment()
    try:
        done = train(arguments.recipe, arguments.overrides, options, cluster)
    finally:
        cluster.stop()
    return EXIT_DONE if done else EXIT_STOPPED
