"""Killed with SIGKILL at random moments, again and again: the corpus is the one of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.format import read_manifest

_KILLS = 25

pytestmark = pytest.mark.slow


def contents(corpus: Path) -> dict[str, bytes]:
    """Every file but the manifest, which tells the command."""
    files = [path for path in corpus.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(corpus)): path.read_bytes() for path in files}


def start(arguments: list[str], repository: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "data_prep", *arguments]
    return subprocess.Popen(
        command,
        cwd=repository,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run_until_done(
    arguments: list[str], repository: Path, generator: random.Random, kills_left: int, longest: float
) -> int:
    """Start, kill, start again, until a run gets to its end; returns the kills."""
    kills = 0
    while True:
        process = start(arguments, repository)
        try:
            process.wait(generator.uniform(0.2, longest) if kills < kills_left else 120)
        except subprocess.TimeoutExpired:
            kills += 1
            if generator.random() < 0.5:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()  # its workers notice
            process.wait()
            continue
        assert process.returncode == 0
        return kills


@pytest.mark.parametrize("options", [[], ["--near-duplicates", "--packing", "best-fit"]])
def test_the_shards_are_those_of_an_undisturbed_run(
    messy_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: Callable[..., list[str]],
    repository: Path,
    options: list[str],
) -> None:
    generator = random.Random(len(options))
    started = time.monotonic()
    undisturbed = tmp_path / "undisturbed"
    process = start(
        shard_command(messy_file, tokenizer_dir, undisturbed, "--workers", "2", *options), repository
    )
    assert process.wait(120) == 0
    longest = time.monotonic() - started
    expected = contents(undisturbed)
    kills = attempt = 0
    while kills < _KILLS:
        out = tmp_path / f"killed-{attempt}"
        arguments = shard_command(messy_file, tokenizer_dir, out, "--workers", "2", *options)
        kills += run_until_done(arguments, repository, generator, _KILLS - kills, longest)
        assert contents(out) == expected
        assert sorted(path.name for path in out.iterdir()) == sorted(
            path.name for path in undisturbed.iterdir()
        )
        attempt += 1
    assert main(["verify", str(out)]) == 0
    documents = read_manifest(out).documents
    assert documents.duplicates == 300
    assert (documents.near_duplicates > 100) == ("--near-duplicates" in options)
    assert sum(documents.damaged.values()) == 3


def test_repacking_survives_too(made_corpus: Path, tmp_path: Path, repository: Path) -> None:
    def command(out: Path) -> list[str]:
        return ["repack", str(made_corpus), "--out", str(out), "--length", "32", "--workers", "2"]

    assert main(command(tmp_path / "undisturbed")) == 0
    generator = random.Random(3)
    kills = attempt = 0
    while kills < 5:
        out = tmp_path / f"killed-{attempt}"
        kills += run_until_done(command(out), repository, generator, 5 - kills, 1.5)
        assert contents(out) == contents(tmp_path / "undisturbed")
        attempt += 1
