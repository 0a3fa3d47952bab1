"""`python -m pipeline study`."""

import argparse
from pathlib import Path

from pipeline.arguments import Parser, Subparsers, add_command, add_recipe, positive
from pipeline.errors import UsageError

_DESCRIPTION = """\
Compare trainings over a grid of settings and seeds. Every run is a `train` of its own, resumed where it was;
then come one table, one JSON file and figures: held-out loss against steps and against time, steps and time
to the baseline's final loss, differences paired by seed, sensitivity. The first --arm, or the first value of
the first --vary, is the baseline; the other choices on that axis are compared with it. The same command on
several machines that share DIR, or in an array of jobs, shares the runs out: each takes those that nobody
works on.

--compare-by NAME compares another figure than the held-out loss: one of the held-out lines of metrics.jsonl,
or with task=TASK one of the numbers of a task of `evaluate`, whose settings may follow (data=PATH limit=N).
better=lower or better=higher and unit=TEXT say how to read it; at=steps or at=time compares a run when it has
taken as many steps, or trained for as long, as its baseline in all.

examples:
  python -m pipeline study demo --out runs/weights --vary guidance.weight=0,0.1 --seeds 3
  python -m pipeline study demo --out runs/depth --vary guidance.weight=0,0.1 --vary model.num_layers=4,12
  python -m pipeline study demo --out runs/controls --arm unguided guidance.weight=0 --arm default \\
      --arm 'next only' 'guidance.heads={next: 3}'
  python -m pipeline study demo --out runs/weights --vary guidance.weight=0,0.1 --seeds 3 --only-results \
      --compare-by accuracy task=blimp data=data/blimp limit=200
  sbatch --array=0-7 slurm/study.sbatch demo --out runs/weights --vary guidance.weight=0,0.1 --seeds 3
"""


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands, "study", "compare trainings over a grid of settings and seeds", _DESCRIPTION
    )
    add_recipe(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the study and all its runs")
    parser.add_argument(
        "--arm",
        action="append",
        nargs="+",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        help="a named choice: settings that belong together; may be repeated",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="a key of the recipe and its values; may be repeated, every combination is run",
    )
    parser.add_argument(
        "--seeds", type=positive, default=3, metavar="N", help="runs of each cell (default: 3)"
    )
    parser.add_argument(
        "--compare-by",
        nargs="+",
        default=["loss"],
        metavar=("NAME", "KEY=VALUE"),
        help="what runs are compared by (default: loss, held-out)",
    )
    parser.add_argument("--processes", type=positive, metavar="N", help="of each run, as in train")
    parser.add_argument(
        "--parallel", type=positive, default=1, metavar="N", help="runs at a time, which share the cores"
    )
    parser.add_argument(
        "--only-results", action="store_true", help="train nothing; write the results of what was trained"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry it out."""
    from pipeline.config.load import find_recipe, read_settings
    from pipeline.study.compare_by import parse_measure
    from pipeline.study.grid import make_grid
    from pipeline.study.study import Study, carry_out

    seed = read_settings(find_recipe(arguments.recipe), arguments.overrides).get("seed", 0)
    if not isinstance(seed, int):
        raise UsageError(f"seed: found {seed!r}, write an integer from 0")
    study = Study(
        recipe=arguments.recipe,
        overrides=tuple(arguments.overrides),
        grid=make_grid(arguments.arm, arguments.vary, seed, arguments.seeds),
        directory=Path(arguments.out),
        processes=arguments.processes,
        parallel=arguments.parallel,
        measure=parse_measure(arguments.compare_by),
    )
    return carry_out(study, train=not arguments.only_results)
