"""While a run trains, garbage is collected when the schedule says, and on all processes at once."""

import json
import sys

from pipeline.training.garbage import EVERY_STEPS
from tests.e2e.running import overrides, run_command


def test_all_processes_collect_at_the_same_steps(recipe_file, tmp_path) -> None:
    recipe = recipe_file(
        train={"num_steps": EVERY_STEPS + 10, "micro_batch_size": 1},
        evaluation={"every_steps": 40, "max_rows": 8},
        checkpoint={"every_steps": 30},
        data={"num_workers": 1},
    )
    command = [sys.executable, "-m", "tests.e2e.collecting", str(tmp_path), "2", str(recipe)]
    finished = run_command([*command, *overrides(run_dir=tmp_path / "run")])
    assert finished.code == 0, finished.output
    ours, theirs = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert ours == theirs
    last = EVERY_STEPS + 10
    assert ours["collections"] == [[30, 2], [40, 2], [EVERY_STEPS, 1], [last, 2], [last, 2]]
    assert ours["is_enabled"]
