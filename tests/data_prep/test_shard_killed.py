"""Killed with SIGKILL at random moments, again and again: the corpus is the one of an undisturbed run."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.format import read_manifest
from tests.processes import Running, start_command

pytestmark = pytest.mark.slow


def contents(corpus: Path) -> dict[str, bytes]:
    """Every file but the manifest, which tells the command."""
    files = [path for path in corpus.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(corpus)): path.read_bytes() for path in files}


def names(corpus: Path) -> set[str]:
    return {path.name for path in corpus.iterdir()}


class Killer:
    """Starts commands and kills them at random moments of the time that they take undisturbed."""

    def __init__(self, command: Callable[[Path, str], list[str]], undisturbed: Path, seed: int) -> None:
        """`command(out, workers)` is a command line of data_prep, of which two runs are left undisturbed."""
        self.command = command
        self.expected = undisturbed
        self._generator = random.Random(seed)
        self._seconds: dict[str, float] = {}
        for workers, out in (("1", undisturbed.with_name("alone")), ("2", undisturbed)):
            running, started = self._start(out, workers), time.monotonic()
            assert running.wait().code == 0
            self._seconds[workers] = time.monotonic() - started
        assert contents(undisturbed.with_name("alone")) == contents(undisturbed)

    def _start(self, out: Path, workers: str) -> Running:
        return start_command([sys.executable, "-m", "data_prep", *self.command(out, workers)])

    def run_until_done(self, out: Path, kills_left: int) -> int:
        """Start, kill, start again with one worker or two, until a run gets to its end; returns the kills."""
        kills, left = 0, 1.0  # what is finished is kept: a share of the work
        while True:
            workers = self._generator.choice(["1", "2"])
            running = self._start(out, workers)
            share = self._generator.uniform(0.0, max(left, 0.4))
            if kills == kills_left or running.ends_within(share * self._seconds[workers]):
                assert running.wait().code == 0
                return kills
            kills, left = kills + 1, left - share
            if self._generator.random() < 0.5:
                os.killpg(running.pid, signal.SIGKILL)
            else:
                os.kill(running.pid, signal.SIGKILL)  # its workers notice
            running.wait()

    def kill_often(self, num_kills: int) -> Path:
        """Run into new directories, each time to the same corpus, until there were that many kills."""
        kills = attempt = 0
        while kills < num_kills:
            out = self.expected.with_name(f"killed-{attempt}")
            kills += self.run_until_done(out, num_kills - kills)
            assert contents(out) == contents(self.expected)
            attempt += 1
        return out


@pytest.mark.parametrize("options", [[], ["--near-duplicates", "--packing", "best-fit"]])
def test_the_shards_are_those_of_an_undisturbed_run(
    messy_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: Callable[..., list[str]],
    options: list[str],
) -> None:
    def command(out: Path, workers: str) -> list[str]:
        return shard_command(messy_file, tokenizer_dir, out, "--workers", workers, *options)

    undisturbed = tmp_path / "undisturbed"
    out = Killer(command, undisturbed, seed=len(options)).kill_often(25)
    assert names(out) == names(undisturbed)
    assert main(["verify", str(out)]) == 0
    documents = read_manifest(out).documents
    assert documents.duplicates == 300
    assert (documents.near_duplicates > 100) == ("--near-duplicates" in options)
    assert sum(documents.damaged.values()) == 3


def test_repacking_survives_too(made_corpus: Path, tmp_path: Path) -> None:
    def command(out: Path, workers: str) -> list[str]:
        return ["repack", str(made_corpus), "--out", str(out), "--length", "32", "--workers", workers]

    Killer(command, tmp_path / "undisturbed", seed=3).kill_often(5)
