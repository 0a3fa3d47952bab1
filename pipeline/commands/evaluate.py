"""`python -m pipeline evaluate`."""

import argparse
from pathlib import Path

from data_prep.errors import EXIT_DONE
from pipeline.arguments import Parser, Subparsers, add_command, add_corpora, positive, positive_float
from pipeline.evaluation.tasks import FORMER_NAMES, TASKS

_DESCRIPTION = """\
Evaluate an encoder on a task: the newest good checkpoint of a run, or a Hugging Face directory. Prints a
table; RUN/evaluation/TASK.json keeps every part as it is finished, so a second start goes on where it was.
The same command gives the same numbers.

tasks:
{tasks}

examples:
  python -m pipeline evaluate runs/demo
  python -m pipeline evaluate runs/demo --task blimp --data data/blimp
  python -m pipeline evaluate runs/demo --task glue --data data/glue --only SST-2 --seeds 5
"""
_SETTINGS = ("data", "only", "limit", "seeds", "epochs", "learning_rate", "batch_size", "max_length")


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    tasks = "\n".join(f"  {name:10}{about}" for name, about in TASKS.items())
    parser = add_command(
        commands,
        "evaluate",
        "measure an encoder: held-out loss, minimal pairs, fine-tuning, probes",
        _DESCRIPTION.format(tasks=tasks),
    )
    parser.add_argument("run", metavar="RUN", help="the run_dir of a trained recipe, or a model directory")
    parser.add_argument(
        "--task",
        type=lambda name: FORMER_NAMES.get(name, name),
        choices=tuple(TASKS),
        default=next(iter(TASKS)),
        metavar="TASK",
        help="one of those above",
    )
    parser.add_argument("--data", type=Path, metavar="PATH", help="file or directory of the task's data")
    parser.add_argument("--out", metavar="DIR", help="write DIR/TASK.json (default: RUN/evaluation)")
    add_corpora(parser)
    settings = parser.add_argument_group("settings; a task says so if it does not take one")
    settings.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="only the parts that begin so, such as a data set or a paradigm; may be repeated",
    )
    settings.add_argument(
        "--limit", type=positive, metavar="N", help="use the first N examples of each split"
    )
    settings.add_argument(
        "--seeds", type=positive, metavar="N", help="fine-tune N times, with seeds 0, 1, ..."
    )
    settings.add_argument(
        "--epochs", type=positive_float, metavar="N", help="passes over the training examples"
    )
    settings.add_argument("--learning-rate", type=positive_float, metavar="LR", help="peak, in fine-tuning")
    settings.add_argument(
        "--batch-size", type=positive, metavar="N", help="examples per step or forward pass"
    )
    settings.add_argument("--max-length", type=positive, metavar="N", help="cut examples to N tokens")


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    from pipeline.evaluation.evaluate import evaluate

    given = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    evaluate(arguments.run, arguments.task, given, arguments.out, arguments.corpora)
    return EXIT_DONE
