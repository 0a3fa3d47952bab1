"""Does what a study found in the loss reach a task? Evaluates every finished run of a study.

    python -m benchmarks.downstream STUDY_DIR --task classify --data DIR [--out FILE] [SETTINGS]

SETTINGS are those of `python -m pipeline evaluate`, such as --epochs, and are passed on to it. A run's score
is its mean over the seeds of fine-tuning; cells are compared with their baselines by pairs of pretraining
seeds, as the study compares losses. An evaluation that is there already is not made again. Writes FILE,
prints a table and, as its last line, one JSON object.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.output import tell
from benchmarks.studies import RESULTS
from pipeline.errors import UserError
from pipeline.evaluation.results import newest_numbers, read_evaluations
from pipeline.runs.run_dir import describe_machine
from pipeline.study.comparison import Spread, paired_difference, spread_of
from pipeline.study.results import CellResult, StudyResults, read_results
from pipeline.study.table import aligned_table, render_spread

SCORES = {"classify": "macro_f1", "tag": "f1", "glue": "average", "blimp": "accuracy"}
Scores = dict[tuple[str, int], float]  # by the name of a cell and the seed of pretraining


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, metavar="STUDY_DIR", help="directory of a finished study")
    parser.add_argument("--task", choices=tuple(SCORES), required=True, help="of `evaluate`")
    parser.add_argument("--parallel", type=int, default=2, metavar="N", help="at a time (default: 2)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: benchmarks/results/studies/STUDY/TASK.json"
    )
    arguments, settings = parser.parse_known_args()
    try:
        results = read_results(arguments.study)
    except UserError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    runs = [
        (cell.name, run.seed) for cell in results.cells for run in cell.runs if run.final_value is not None
    ]

    def score_of(run: tuple[str, int]) -> float:
        path = arguments.study / "runs" / run[0] / f"seed-{run[1]}"
        return evaluate(path, arguments.task, settings)

    with ThreadPoolExecutor(arguments.parallel) as pool:
        scores = dict(zip(runs, tqdm(pool.map(score_of, runs), total=len(runs), unit="run")))
    cells = [compare(cell, scores) for cell in results.cells]
    print(render(results, cells))
    out = arguments.out or RESULTS / arguments.study.resolve().name / f"{arguments.task}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    result = {"benchmark": "downstream", "task": arguments.task, "score": SCORES[arguments.task]}
    tell(result | {"settings": settings, "cells": cells, "machine": describe_machine()}, out)
    return 0


def evaluate(run: Path, task: str, settings: Sequence[str]) -> float:
    """The score of a run, from its evaluation by a process of its own."""
    command = [sys.executable, "-m", "pipeline", "evaluate", str(run), "--task", task, *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    numbers = newest_numbers(read_evaluations(run / "evaluation" / f"{task}.json")[-1])
    assert numbers is not None, "a finished evaluation has a summary"
    score = numbers[SCORES[task]]
    if score is None:
        raise SystemExit(f"{run}: {SCORES[task]} is not defined")
    return score


def compare(cell: CellResult, scores: Scores) -> dict[str, Any]:
    """A cell's scores, and their differences from the baseline's of the same seeds; higher is better."""
    seeds = [run.seed for run in cell.runs if (cell.name, run.seed) in scores]
    pairs = [
        (scores[cell.baseline, seed], scores[cell.name, seed])
        for seed in seeds
        if (cell.baseline, seed) in scores and not cell.is_baseline
    ]
    spread, difference = spread_of([scores[cell.name, seed] for seed in seeds]), paired_difference(pairs)
    return {
        "labels": cell.labels,
        "scores": {str(seed): scores[cell.name, seed] for seed in seeds},
        "spread": None if spread is None else asdict(spread),
        "difference": None if difference is None else asdict(difference),
    }


def render(results: StudyResults, cells: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    axes = [axis.name for axis in results.axes]
    rows = []
    for cell in cells:
        difference = cell["difference"]
        figures = ["-", "-"]
        if difference is not None:
            figures[0] = f"{difference['mean']:+.3f}"
            if difference["interval"] is not None:
                figures[1] = "{:+.3f} to {:+.3f}".format(*difference["interval"])
        spread = None if cell["spread"] is None else Spread(**cell["spread"])
        rows.append([*cell["labels"], render_spread(spread, 3), *figures])
    return aligned_table([*axes, "score", "difference", "95 % interval"], rows, len(axes))


if __name__ == "__main__":
    sys.exit(main())
