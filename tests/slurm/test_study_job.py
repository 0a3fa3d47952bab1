"""slurm/study.sbatch in an array of a real SLURM: the jobs share the runs, the last one has all results."""

import json
import sys
from pathlib import Path

from pipeline.runs.run_dir import RunDir
from tests.e2e.running import overrides
from tests.slurm.slurm_cluster import SlurmCluster

NUM_JOBS = 2


def test_an_array_shares_out_a_study(slurm: SlurmCluster, source: Path, recipe_file, tmp_path: Path) -> None:
    recipe = recipe_file(train={"num_steps": 4}, evaluation={"every_steps": 2}, checkpoint={"every_steps": 2})
    out = tmp_path / "out"
    grid = ["--out", out, "--vary", "guidance.weight=0,7", "--seeds", "1", *overrides(run_dir="unused")]
    job = slurm.submit(
        source, f"--array=0-{NUM_JOBS - 1}", "slurm/study.sbatch", recipe, *grid, PYTHON=sys.executable
    )
    for number in range(NUM_JOBS):
        slurm.wait_for_state(f"{job}_{number}", "COMPLETED")

    runs = [RunDir(path) for path in sorted((out / "runs").glob("*/seed-1"))]
    assert len(runs) == 2
    for run in runs:
        kinds = [event["event"] for event in run.read_events()]
        assert (kinds.count("start"), kinds.count("done")) == (1, 1)
    # Each job began with another run.
    logs = [(source / f"slurm-{job}_{number}.log").read_text() for number in range(NUM_JOBS)]
    assert all("study_results.json" in log for log in logs)
    results = json.loads((out / "study_results.json").read_text())
    assert [run["final_value"] is not None for cell in results["cells"] for run in cell["runs"]] == [
        True,
        True,
    ]
