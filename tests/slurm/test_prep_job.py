"""slurm/prep.sbatch in an array of a real SLURM gives the bytes of one undisturbed `shard`."""

import json
import sys
from pathlib import Path

import pytest

from data_prep.__main__ import main
from tests.shard_files import shard_bytes
from tests.slurm.slurm_cluster import SlurmCluster, wait_until

NUM_TASKS = 3
# The first time that task 1 starts it does nothing until it is killed.
HOOK = """
if [[ $SLURM_ARRAY_TASK_ID == 1 && ! -e hung ]]; then
    touch hung
    sleep 300
fi
"""


@pytest.fixture
def documents(tiny_documents: Path, tmp_path: Path) -> Path:
    """A file that is large enough to be divided among the tasks: a segment has 256 KiB or more."""
    texts = [json.loads(line)["text"] for line in tiny_documents.read_text(encoding="utf-8").splitlines()]
    path = tmp_path / "documents.jsonl"
    lines = [json.dumps({"text": f"{text} {copy}"}) + "\n" for copy in range(5) for text in texts]
    path.write_text("".join(lines), encoding="utf-8")
    assert 2 < path.stat().st_size / 2**18 <= NUM_TASKS
    return path


def test_a_lost_task_is_made_up_for_by_the_same_array(
    slurm: SlurmCluster, source: Path, documents: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    (source / "hook.sh").write_text(HOOK)
    options = ["--tokenizer", tiny_tokenizer, "--length", 32, "--valid-fraction", 0.2, "--shards", 2]
    out = tmp_path / "out"

    def submit() -> int:
        command = [f"--array=0-{NUM_TASKS - 1}", "slurm/prep.sbatch", documents, out, *options]
        return slurm.submit(source, *command, PYTHON=sys.executable, LODESTAR_ENV="hook.sh")

    def log_of(job: int, task: int) -> str:
        return (source / f"slurm-{job}_{task}.log").read_text()

    first = submit()
    for task in (0, 2):
        slurm.wait_for_state(f"{first}_{task}", "COMPLETED")
        assert "1 of 3 segments are not finished" in log_of(first, task)
        assert "This is no error while other tasks are at work" in log_of(first, task)
    wait_until((source / "hung").exists, "the start of task 1")
    slurm.control("scancel", f"{first}_1")
    slurm.wait_for_state(f"{first}_1", "CANCELLED")
    assert not (out / "manifest.json").exists()

    second = submit()
    for task in range(NUM_TASKS):
        slurm.wait_for_state(f"{second}_{task}", "COMPLETED")
    assert main(["shard", str(documents), "--out", str(tmp_path / "undisturbed"), *map(str, options)]) == 0
    assert shard_bytes(out) == shard_bytes(tmp_path / "undisturbed")
    assert not (out / ".work").exists()
    assert sum(f"{out}: done, packed" in log_of(second, task) for task in range(NUM_TASKS)) == 1
