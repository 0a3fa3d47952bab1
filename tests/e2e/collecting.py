"""Train and note when garbage is collected: python -m tests.e2e.collecting OUT PROCESSES RECIPE ...

Each process writes OUT/RANK.json: the step and generation of each collection from the first step to the end
of the training, and whether the collector is on afterwards. The launcher starts its copies of this module's
command line.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from pipeline.__main__ import main
from pipeline.processes import launch
from pipeline.training.step import StepRunner
from pipeline.training.trainer import Trainer


def note_in(out: Path) -> None:
    run, run_steps = StepRunner.run, Trainer.run_steps
    collections: list[tuple[int, int]] = []
    steps_taken = 0

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            collections.append((steps_taken, info["generation"]))

    def run_noted(runner: StepRunner, step: int, *arguments: Any) -> Any:
        nonlocal steps_taken
        outcome = run(runner, step, *arguments)
        steps_taken = step + 1
        if note not in gc.callbacks:
            gc.callbacks.append(note)
        return outcome

    def run_steps_noted(trainer: Trainer, *arguments: Any) -> bool:
        try:
            return run_steps(trainer, *arguments)
        finally:
            gc.callbacks.remove(note)
            found = {"collections": collections, "is_enabled": gc.isenabled()}
            (out / f"{trainer.cluster.rank}.json").write_text(json.dumps(found))

    StepRunner.run = run_noted  # type: ignore[method-assign]
    Trainer.run_steps = run_steps_noted  # type: ignore[method-assign]


if __name__ == "__main__":
    _, out, processes, *arguments = sys.argv
    if "RANK" in os.environ:
        note_in(Path(out))
        sys.exit(main(["train", *arguments]))
    sys.exit(launch.launch([sys.executable, "-m", "tests.e2e.collecting", *sys.argv[1:]], int(processes)))
