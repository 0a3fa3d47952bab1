"""Many tasks make the corpus that one makes, and merge knows what is missing."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.commands.shard import parse_task
from data_prep.format import read_manifest
from tests.shard_files import shard_bytes

ShardCommand = Callable[..., list[str]]


@pytest.mark.parametrize("num_tasks", [1, 3, 40])
def test_any_number_of_tasks_gives_the_same_bytes(
    made_corpus: Path,
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    num_tasks: int,
) -> None:
    out = tmp_path / "out"
    for task in reversed(range(num_tasks)):
        options = ["--task", f"{task}/{num_tasks}", "--workers", "1"]
        assert main(shard_command(documents_file, tokenizer_dir, out, *options)) == 0
    assert not (out / "manifest.json").exists()
    assert main(["merge", str(out), "--workers", "1"]) == 0
    assert shard_bytes(out) == shard_bytes(made_corpus)
    assert {path.name for path in out.iterdir()} == {path.name for path in made_corpus.iterdir()}
    assert main(["merge", str(out)]) == 0


def test_duplicates_are_found_across_tasks(
    messy_file: Path, tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand
) -> None:
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        f"- {{name: a, inputs: {messy_file}, repeat: 2}}\n"
        f"- {{name: b, inputs: {messy_file.parent}/copy.jsonl, repeat: 0.5}}\n"
    )
    shutil.copyfile(messy_file, messy_file.parent / "copy.jsonl")

    def arguments(out: Path, *more: str) -> list[str]:
        fixed = ["--length", "64", "--shards", "3", "--near-duplicates", "--workers", "1", "--mix", str(mix)]
        return ["shard", *fixed, "--tokenizer", str(tokenizer_dir), "--out", str(out), *more]

    for task in (1, 2, 0):
        assert main(arguments(tmp_path / "many", "--task", f"{task}/3")) == 0
    assert main(["merge", str(tmp_path / "many"), "--workers", "2"]) == 0
    assert main(arguments(tmp_path / "one")) == 0
    assert shard_bytes(tmp_path / "many") == shard_bytes(tmp_path / "one")
    one, many = (read_manifest(tmp_path / name) for name in ("one", "many"))
    assert (one.documents, one.sources, one.splits) == (many.documents, many.sources, many.splits)
    counts = one.documents
    accounted = counts.train + counts.valid + counts.duplicates + counts.near_duplicates
    accounted += sum(counts.dropped.values()) + sum(counts.damaged.values())
    assert accounted == counts.read == 2 * 3605
    assert main(["verify", str(tmp_path / "one")]) == 0


def test_merge_names_the_tasks_that_are_missing(
    made_corpus: Path,
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    for task in (0, 2):
        options = ["--task", f"{task}/4", "--workers", "1"]
        assert main(shard_command(documents_file, tokenizer_dir, out, *options)) == 0
    # A part that a full disk or a careless hand took away again.
    min((out / ".work" / "parts").glob("000002-*.part")).unlink()
    assert main(["merge", str(out)]) == 65
    told = capsys.readouterr().err
    assert "segments are not finished; run these tasks of 4 again: 1,2,3 (sbatch --array=1,2,3)" in told
    for task in (1, 2, 3):
        options = ["--task", f"{task}/4", "--workers", "1"]
        assert main(shard_command(documents_file, tokenizer_dir, out, *options)) == 0
    assert main(["merge", str(out), "--workers", "1"]) == 0
    assert shard_bytes(out) == shard_bytes(made_corpus)


def test_the_same_task_may_run_twice_at_once(
    made_corpus: Path,
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    repository: Path,
) -> None:
    """A task that was thought to be dead."""
    out = tmp_path / "out"
    arguments = shard_command(documents_file, tokenizer_dir, out, "--task", "0/1", "--workers", "1")
    command = [sys.executable, "-m", "data_prep", *arguments]
    processes = [subprocess.Popen(command, cwd=repository, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert main(["merge", str(out), "--workers", "1"]) == 0
    assert shard_bytes(out) == shard_bytes(made_corpus)


def test_merge_needs_a_preparation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(tmp_path)]) == 65
    assert f"{tmp_path}: no preparation has begun here" in capsys.readouterr().err


def test_a_damaged_part_is_told(
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    options = ["--task", "0/1", "--workers", "1"]
    assert main(shard_command(documents_file, tokenizer_dir, out, *options)) == 0
    part = min((out / ".work" / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:-20])
    assert main(["merge", str(out), "--workers", "1"]) == 65
    assert f"{part}: not a finished part; delete it" in capsys.readouterr().err


def test_the_variables_of_a_job_array(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MIN": "0", "MAX": "31", "ID": "13"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert parse_task("slurm") == (13, None, 32)
    assert parse_task("3/32") == (3, 32, 32)


def test_a_part_of_an_array_submitted_again(
    made_corpus: Path,
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """sbatch --array=0-3, then what merge names: --array=1,2."""
    out = tmp_path / "out"
    arguments = shard_command(documents_file, tokenizer_dir, out, "--task", "slurm", "--workers", "1")

    def submit(numbers: list[int]) -> list[int]:
        codes = []
        for number in numbers:
            for name, value in {"MIN": min(numbers), "MAX": max(numbers), "ID": number}.items():
                monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
            codes.append(main(arguments))
        return codes

    assert submit([0, 3]) == [0, 0]
    assert main(["merge", str(out)]) == 65
    assert "run these tasks of 4 again: 1,2 (sbatch --array=1,2)" in capsys.readouterr().err
    assert submit([1, 2]) == [0, 0]
    assert submit([4]) == [64]
    assert "this is task 4, but" in capsys.readouterr().err
    assert main(["merge", str(out), "--workers", "1"]) == 0
    assert shard_bytes(out) == shard_bytes(made_corpus)


def test_many_may_merge_at_once(
    made_corpus: Path,
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    repository: Path,
) -> None:
    out = tmp_path / "out"
    options = ["--task", "0/1", "--workers", "1"]
    assert main(shard_command(documents_file, tokenizer_dir, out, *options)) == 0
    command = [sys.executable, "-m", "data_prep", "merge", str(out), "--workers", "1"]
    processes = [subprocess.Popen(command, cwd=repository, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert shard_bytes(out) == shard_bytes(made_corpus)
    assert main(["verify", str(out)]) == 0


def test_a_tokenizer_that_changes_between_tasks_is_noticed(
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_dir, mine)
    options = ["--task", "0/2", "--workers", "1"]
    assert main(shard_command(documents_file, mine, tmp_path / "out", *options)) == 0
    other = (
        (mine / "tokenizer.json").read_text().replace('"add_prefix_space": false', '"add_prefix_space": true')
    )
    (mine / "tokenizer.json").write_text(other)
    assert main(shard_command(documents_file, mine, tmp_path / "out", *options)) == 64
    assert "the tokenizer is another one" in capsys.readouterr().err
