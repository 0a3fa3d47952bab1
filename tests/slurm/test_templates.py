"""What the templates make of their arguments and SLURM's variables, with SLURM's commands and Python faked.

Every command that a template starts writes a line to a transcript, compared with tests/slurm/golden/. After a
wanted change, write the files anew with WRITE_GOLDEN=1 and read the difference.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
TEMPLATES = sorted((ROOT / "slurm").iterdir())

_FAKES = {
    # The last task of a step, as slurmd would start it.
    "srun": """
        note srun "$@"
        for argument in "$@"; do
            case $argument in
                --ntasks=*) tasks=${argument#*=} ;;
                --ntasks-per-node=*) per_node=${argument#*=} ;;
                --output=*) output=${argument#*=} ;;
            esac
        done
        while [[ $1 == --* ]]; do shift; done
        export SLURM_NTASKS=$tasks SLURM_PROCID=$((tasks - 1)) SLURM_LOCALID=$((${per_node:-1} - 1))
        [[ -z ${output:-} ]] || exec >"${output/\\%t/0}"
        exec "$@"
    """,
    "scontrol": """
        note scontrol "$@"
        case $* in
            "show hostnames"*) printf 'node07\\nnode08\\n' ;;
            *"show node"*) echo "NodeName=$4 Arch=x86_64 NodeAddr=10.0.0.7 NodeHostName=$4 Port=0" ;;
        esac
    """,
    "squeue": """
        note squeue "$@"
        echo 2030-01-01T12:00:00
    """,
    "python": """
        note python "$@" "(in $PWD)"
        case $3 in
            snapshot) echo "$SNAPSHOT" ;;
            train) echo "training says this" && exit "$(<"$CODES/train")" ;;
            *) exit "$(<"$CODES/$3")" ;;
        esac
    """,
}
_NOTE = """#!/usr/bin/env bash
note() {
    { printf '%q ' "$@" && echo; } >>"$TRANSCRIPT"
    if [[ $* == *"-m pipeline train"* && $1 == python ]]; then
        env | grep -E '^(RANK|LOCAL_RANK|WORLD_SIZE|MASTER_|OMP_|NCCL_|SLURM_JOB_END_TIME)' | sort |
            sed 's/^/    /' >>"$TRANSCRIPT"
    fi
}
"""


@dataclass
class Job:
    """A directory with a source tree, a snapshot and fake commands; runs a template as slurmd would."""

    root: Path
    codes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.source, self.snapshot = self.root / "source", self.root / "run" / "snapshots" / "0123456789ab"
        for directory in (self.source, self.snapshot):
            shutil.copytree(ROOT / "slurm", directory / "slurm")
        (self.root / "bin").mkdir()
        for name, script in _FAKES.items():
            (self.root / "bin" / name).write_text(_NOTE + script)
            (self.root / "bin" / name).chmod(0o755)

    def run(self, template: str, *arguments: object, **variables: object) -> tuple[int, str]:
        """Exit code, and the transcript with everything the template printed below it."""
        codes, transcript = self.root / "codes", self.root / "transcript"
        codes.mkdir(exist_ok=True)
        transcript.write_text("")
        for command in ("train", "requeue", "shard", "merge", "study"):
            (codes / command).write_text(str(self.codes.get(command, 0)))
        environment = {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "TZ": "UTC",
            "TRANSCRIPT": transcript,
            "CODES": codes,
            "SNAPSHOT": self.snapshot,
            "SLURM_JOB_ID": 123456,
            "SLURM_JOB_NODELIST": "node[07-08]",
            **variables,
        }
        finished = subprocess.run(
            ["bash", str(self.source / "slurm" / template), *map(str, arguments)],
            cwd=self.source,
            env={name: str(value) for name, value in environment.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        told = f"{transcript.read_text()}\n{finished.stdout}exit code {finished.returncode}\n"
        return finished.returncode, told.replace(str(self.root), "/ROOT").replace(" \n", "\n")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


ONE_NODE = {"SLURM_JOB_NUM_NODES": 1, "SLURM_CPUS_ON_NODE": 64, "SLURM_GPUS_ON_NODE": 8}
TWO_NODES = {"SLURM_JOB_NUM_NODES": 2, "SLURM_CPUS_ON_NODE": 30, "SLURM_GPUS_PER_NODE": "a100:4"}
WITHOUT_GPUS = {"SLURM_JOB_NUM_NODES": 2, "SLURM_CPUS_ON_NODE": 2, "SLURM_NTASKS_PER_NODE": 2}
TASK = {
    "SLURM_ARRAY_JOB_ID": 123456,
    "SLURM_ARRAY_TASK_ID": 3,
    "SLURM_ARRAY_TASK_MAX": 31,
    "SLURM_CPUS_ON_NODE": 16,
}


def check_golden(name: str, told: str) -> None:
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("WRITE_GOLDEN") == "1":
        file.write_text(told, encoding="utf-8")
    assert told == file.read_text(encoding="utf-8")


def test_one_node_with_eight_gpus(job):
    arguments = (
        "recipes/mine.yaml",
        "--set",
        "seed=2",
        "--accept-changes",
        "--set=train.num_steps=9",
        "--fresh",
    )
    _, told = job.run("train.sbatch", *arguments, **ONE_NODE)
    check_golden("train-1x8", told)


def test_two_nodes_with_four_gpus_from_a_snapshot(job):
    variables = {
        "NCCL_DEBUG": "INFO",
        "OMP_NUM_THREADS": 3,
        "SLURM_JOB_END_TIME": 1900000000,
        "SLURM_WAIT": 7,
    }
    _, told = job.run("train.sbatch", job.snapshot, **TWO_NODES, **variables)
    check_golden("train-2x4", told)


def test_a_container_and_a_file_to_source(job):
    (job.source / "activate.sh").write_text('PATH=$PATH:/from/hook\necho "hook: $UNSET_IS_NO_ERROR"\nfalse\n')
    job.codes = {"train": 75}
    variables = {
        "LODESTAR_ENV": "activate.sh",
        "LODESTAR_CONTAINER": "lodestar.sqsh",
        "LODESTAR_MOUNTS": "/d:/d",
    }
    _, told = job.run("train.sbatch", "demo", **ONE_NODE, **variables)
    check_golden("train-container", told)


def test_a_task_of_a_preparation(job):
    arguments = (
        "corpora/a b",
        "corpora/out",
        "more.jsonl",
        "--tokenizer",
        "tok",
        "--length",
        512,
        "--strict",
    )
    _, told = job.run("prep.sbatch", *arguments, **TASK)
    check_golden("prep-task", told)


def test_a_mixture_in_a_container(job):
    variables = {"LODESTAR_CONTAINER": "lodestar.sqsh", "PYTHON": "python"}
    _, told = job.run("prep.sbatch", "mix.yaml", "out", "--tokenizer", "tok", **TASK, **variables)
    check_golden("prep-mixture-container", told)


def test_a_job_of_a_study(job):
    arguments = ("demo", "--out", "runs/a b", "--vary", "guidance.weight=0,7", "--seeds", 3)
    _, told = job.run("study.sbatch", *arguments, **TASK, SLURM_GPUS_ON_NODE=8)
    check_golden("study-task", told)


@pytest.mark.parametrize("given", [["--processes", "2"], ["--processes=2"], []])
def test_processes_of_a_study_are_those_asked_for_or_one_per_gpu(job, given):
    _, told = job.run("study.sbatch", "demo", *given, **TASK, SLURM_GPUS_ON_NODE=8)
    asked = " ".join(given) or "--processes 8"
    assert told.count(f"-m pipeline study demo {asked}") == told.count("--processes") == 2
    _, alone = job.run("study.sbatch", "demo", **TASK)
    assert "--processes" not in alone


@pytest.mark.parametrize("code", [0, 70, 75])
def test_a_job_of_a_study_is_requeued_only_when_it_was_stopped(job, code):
    job.codes = {"study": code}
    found, told = job.run("study.sbatch", "demo", **TASK)
    assert found == code
    assert told.count("scontrol requeue 123456_3\n") == (1 if code == 75 else 0)


def test_a_study_in_a_job_of_its_own_is_requeued_by_its_number(job):
    job.codes = {"study": 75}
    code, told = job.run("study.sbatch", "demo", SLURM_CPUS_ON_NODE=4)
    assert code == 75
    assert told.count("scontrol requeue 123456\n") == 1


def test_gpus_decide_the_number_of_processes_and_tasks_only_without_them(job):
    assert (
        "--ntasks=4 --ntasks-per-node=2 --cpus-per-task=1 "
        in job.run("train.sbatch", "demo", **WITHOUT_GPUS)[1]
    )
    both = {**WITHOUT_GPUS, **TWO_NODES}
    assert "--ntasks=8 --ntasks-per-node=4 --cpus-per-task=7 " in job.run("train.sbatch", "demo", **both)[1]


@pytest.mark.parametrize(
    ("train", "requeue", "asked"), [(0, 0, 0), (75, 0, 1), (137, 0, 1), (78, 1, 0), (75, 74, 0)]
)
def test_a_requeue_is_asked_for_once_and_only_if_decided(job, train, requeue, asked):
    job.codes = {"train": train, "requeue": requeue}
    code, told = job.run("train.sbatch", "demo", **ONE_NODE)
    assert code == train
    assert told.count("scontrol requeue 123456\n") == asked
    assert told.count(f"-m pipeline requeue /ROOT/run --exit-code {train} ") == (1 if train else 0)


def test_a_restart_runs_from_what_the_first_start_remembered(job):
    job.run("train.sbatch", "demo", "--fresh", **ONE_NODE)
    (job.source / "slurm" / "rendezvous.sh").write_text("exit 1\n")
    (job.source / "slurm" / "environment.sh").unlink()
    code, told = job.run("train.sbatch", "demo", "--fresh", SLURM_RESTART_COUNT=2, **ONE_NODE)
    assert code == 0
    assert "pipeline snapshot" not in told
    assert "--output=/ROOT/source/logs/123456/restart-2/rank-%t.log" in told
    assert "python -m pipeline train recipe.yaml \\(in\\ /ROOT/run/snapshots/0123456789ab\\)\n" in told


def test_a_number_that_another_job_had_before_means_nothing(job):
    remembered = job.source / "logs" / "123456" / "snapshot"
    remembered.parent.mkdir(parents=True)
    remembered.write_text("/of/another/job\n")
    _, told = job.run("train.sbatch", "demo", **ONE_NODE)
    assert "/of/another/job" not in told
    assert remembered.read_text() == f"{job.snapshot}\n"


MISTAKES = {
    "no recipe": (["train.sbatch"], "usage: sbatch"),
    "option first": (["train.sbatch", "--set", "a=1"], "usage: sbatch"),
    "a step to stop at": (["train.sbatch", "demo", "--stop-at", "5"], "--stop-at: the job would be requeued"),
    "no snapshot": (["train.sbatch", "slurm"], "/ROOT/source/slurm has no slurm/environment.sh"),
    "a changed snapshot": (
        ["train.sbatch", "../run/snapshots/0123456789ab", "--set=seed=1"],
        "--set changes nothing in a snapshot",
    ),
    "no recipe to study": (["study.sbatch", "--vary", "a=1,2"], "usage: sbatch --array"),
    "no corpus to write": (["prep.sbatch", "docs.jsonl"], "usage: sbatch --array"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_64_before_anything_starts(job, mistake):
    command, message = MISTAKES[mistake]
    code, told = job.run(*command, **ONE_NODE)
    assert code == 64
    assert message in told
    assert "srun" not in told


def test_without_a_time_limit_there_is_no_deadline(job):
    (job.root / "bin" / "squeue").write_text("#!/bin/sh\necho N/A\n")
    assert "SLURM_JOB_END_TIME" not in job.run("train.sbatch", "demo", **ONE_NODE)[1]


@pytest.mark.parametrize(
    ("shard", "merge", "code"), [(75, 0, 75), (0, 75, 75), (65, 0, 65), (0, 65, 65), (0, 0, 0)]
)
def test_a_preparation_is_requeued_only_when_it_was_stopped(job, shard, merge, code):
    job.codes = {"shard": shard, "merge": merge}
    found, told = job.run("prep.sbatch", "docs.jsonl", "out", **TASK)
    assert found == code
    assert told.count("scontrol requeue 123456_3\n") == (1 if code == 75 else 0)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_are_bash(template):
    subprocess.run(["bash", "-n", str(template)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(
            ["shellcheck", "--shell=bash", "--external-sources", str(template)], cwd=ROOT, check=True
        )
