"""The benchmark of what a step takes beside the model."""

import json
import sys

from tests.e2e.running import run_command


def test_every_part_of_a_step_is_measured(recipe_file):
    recipe = recipe_file(logging={"every_steps": 1})
    options = ["--steps", "4", "--processes", "1"]
    command = [sys.executable, "-m", "benchmarks.overhead", str(recipe), *options]
    # A forked copy would remove its parent's temporary directory when it ends.
    finished = run_command(command, genuine=True)
    assert finished.code == 0, finished.output
    result = json.loads(finished.output.splitlines()[-1])
    (found,) = result["by_processes"].values()
    parts = found["step_milliseconds"]
    assert all(parts[name] > 0 for name in parts if name not in ("snapshots", "agreeing"))
    engine = sum(parts[name] for name in ("forward", "backward", "optimizer"))
    apart = sum(parts[name] for name in ("evaluation", "checkpoints", "snapshots"))
    assert 0 < found["share"] < 1
    assert abs(1 - engine / (sum(parts.values()) - apart) - found["share"]) < 1e-3
