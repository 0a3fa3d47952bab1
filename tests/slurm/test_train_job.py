"""slurm/train.sbatch on two nodes of a real SLURM: whatever ends a start, the job ends as if nothing had."""

import sys
from pathlib import Path

import pytest

from benchmarks.resume import compare_logs
from pipeline.runs.run_dir import RunDir
from tests.e2e.running import overrides, train
from tests.slurm.slurm_cluster import SlurmCluster, wait_until

# One process per node. A minute's wait for the rest after a process has ended would be the test's, too.
VARIABLES = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "SLURM_WAIT": "5"}
NUM_STEPS = 150


@pytest.fixture(scope="module")
def recipe(recipe_file) -> Path:
    return recipe_file(
        train={"num_steps": NUM_STEPS, "deepspeed": "zero2"},
        evaluation={"every_steps": NUM_STEPS},
        checkpoint={"every_steps": 10},
        logging={"every_steps": 5},
    )


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory) -> RunDir:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = train(recipe, *overrides(run_dir=run_dir), launcher="processes")
    assert finished.code == 0, finished.output
    return RunDir(run_dir)


def submit(
    slurm: SlurmCluster,
    source: Path,
    recipe: Path,
    run: RunDir,
    nodes: int = 2,
    limits: tuple[str, ...] = ("--time=60",),
    **settings: object,
) -> int:
    options = [f"--nodes={nodes}", *limits, "slurm/train.sbatch"]
    return slurm.submit(source, *options, recipe, *overrides(run_dir=run.path, **settings), **VARIABLES)


def wait_for_step(run: RunDir, step: int) -> None:
    """Wait for a checkpoint of this step or a later one."""
    events = run.read_events
    wait_until(
        lambda: any(event["event"] == "checkpoint" and event["step"] >= step for event in events()),
        f"a checkpoint of step {step}",
    )


def logs_of(source: Path, job: int) -> str:
    """Everything the job's starts have said."""
    files = [source / f"slurm-{job}.log", *sorted((source / "logs" / str(job)).rglob("rank-*.log"))]
    return "\n".join(f"== {file}\n{file.read_text()}" for file in files if file.is_file())


def assert_done_as_if_undisturbed(slurm, source, job: int, run: RunDir, undisturbed: RunDir) -> None:
    state = slurm.wait_for_state(job, "COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED")
    assert state["JobState"] == "COMPLETED", logs_of(source, job)
    compared, differences = compare_logs(run, undisturbed)
    assert differences == []
    assert compared > NUM_STEPS // 5


def requeues(run: RunDir) -> list[dict]:
    return [event for event in run.read_events() if event["event"] == "requeue"]


def test_a_warned_job_stops_requeues_itself_and_goes_on_from_its_snapshot(
    slurm, source, recipe, undisturbed, tmp_path
):
    run = RunDir(tmp_path / "run")
    mine = Path(recipe.parent / "mine.yaml")
    mine.write_text(recipe.read_text())
    job = submit(slurm, source, mine, run)
    wait_for_step(run, 10)
    (task,) = [p for p in slurm.tasks_of("n2") if p.environ().get("RANK") == "1"]
    end_time = int(task.environ()["SLURM_JOB_END_TIME"])
    assert 3400 < end_time - task.create_time() <= 3605

    # From here on nothing that was submitted is what the source tree holds.
    mine.write_text("run_dir: elsewhere\n")
    (source / "pipeline" / "__main__.py").write_text("raise SystemExit(70)\n")
    slurm.control("scancel", "--signal=USR2", job)
    slurm.wait_for_restart(job, 1)
    assert_done_as_if_undisturbed(slurm, source, job, run, undisturbed)

    (requeue,) = requeues(run)
    assert (requeue["exit_code"], requeue["job"], requeue["restart"]) == (75, job, 0)
    resumed = [event["step"] for event in run.read_events() if event["event"] == "resume"]
    assert resumed == [requeue["step"]]
    assert len(list((run.path / "snapshots").iterdir())) == 1
    for restart in (0, 1):
        assert {file.name for file in (source / f"logs/{job}/restart-{restart}").iterdir()} == {
            "rank-0.log",
            "rank-1.log",
        }


def test_a_time_limit_is_met_with_a_checkpoint_and_a_requeue(slurm, source, recipe, undisturbed, tmp_path):
    """One minute, and the job's first start is too slow for it."""
    run = RunDir(tmp_path / "run")
    step = source / "pipeline" / "training" / "step.py"
    slow = "import os, time\nif os.environ.get('SLURM_RESTART_COUNT', '0') == '0':\n    time.sleep(0.6)\n"
    begin = "        totals = self._agree(micro_batches, flags)\n"
    text = step.read_text()
    assert text.count(begin) == 1
    step.write_text(text.replace(begin, "".join(f"        {line}\n" for line in slow.splitlines()) + begin))
    job = submit(slurm, source, recipe, run, limits=("--time=1", "--signal=USR2@45"))
    slurm.wait_for_restart(job, 1)
    assert_done_as_if_undisturbed(slurm, source, job, run, undisturbed)

    # On a slow machine a later start may meet its limit as well.
    stops = [event for event in run.read_events() if event["event"] == "stop"]
    assert 0 < stops[0]["step"] < NUM_STEPS
    assert {stop["reason"] for stop in stops} <= {"SIGUSR2", "deadline"}
    assert [event["exit_code"] for event in requeues(run)] == [75] * len(stops)


def test_a_requeued_job_and_a_lost_node_change_nothing(slurm, source, recipe, undisturbed, tmp_path):
    run = RunDir(tmp_path / "run")
    job = submit(slurm, source, recipe, run)
    wait_for_step(run, 10)
    slurm.control("scontrol", "requeue", job)
    slurm.wait_for_restart(job, 1)
    assert requeues(run) == [], "the administrator's requeue was answered by another"

    wait_for_step(run, max(step_reached(run), 10) + 10)
    slurm.kill_node("n2")
    slurm.start_node("n2")
    slurm.wait_for_restart(job, 2)
    assert_done_as_if_undisturbed(slurm, source, job, run, undisturbed)


def step_reached(run: RunDir) -> int:
    return max(event["step"] for event in run.read_events() if event["event"] == "checkpoint")


def test_a_wrong_recipe_is_not_requeued(slurm, source, recipe, tmp_path):
    """The mistake shows only when the corpus is looked at, on the node."""
    run = RunDir(tmp_path / "run")
    job = submit(slurm, source, recipe, run, nodes=1, model__max_positions=8)
    state = slurm.wait_for_state(job, "COMPLETED", "FAILED")
    assert (state["ExitCode"], state["Restarts"]) == ("78:0", "0"), logs_of(source, job)
    (event,) = run.read_events()
    assert (event["event"], event["reason"]) == ("not requeued", "the recipe is wrong")
    assert "model.max_positions" in (source / f"slurm-{job}.log").read_text()


def test_a_cancelled_job_stays_cancelled(slurm, source, recipe, tmp_path):
    """Also one whose processes die of it, with a code that a requeue would answer."""
    run = RunDir(tmp_path / "run")
    job = submit(slurm, source, recipe, run)
    wait_until(lambda: bool(slurm.tasks_of("n2")), "the start of the processes")
    slurm.control("scancel", job)
    wait_until(slurm.is_idle, "the end of the job")
    state = slurm.job(job)
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0"), logs_of(source, job)
    assert run.read_events() == []
