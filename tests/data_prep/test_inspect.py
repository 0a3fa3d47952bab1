"""inspect shows the manifest's counts and real rows."""

import re
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.format import read_manifest


def test_counts_lengths_and_rows(made_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(made_corpus), "--rows", "3"]) == 0
    shown = capsys.readouterr().out
    manifest = read_manifest(made_corpus)
    assert f"{manifest.train_tokens:,}" in shown
    assert f"{manifest.documents.valid:,}" in shown
    shares = [float(share) for share in re.findall(r"to +\d+ +([\d.]+)%", shown)]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert shown.count("train row") == 3
    pieces = re.findall(r"^ +\d+  (<s>.*)$", shown, re.MULTILINE)
    assert len(pieces) >= 3
    assert re.search(r"(karo|miten|sul)", shown)


def test_the_seed_chooses_the_rows(made_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for seed in ("1", "1", "2"):
        assert main(["inspect", str(made_corpus), "--seed", seed]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2]


def test_a_corpus_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "gone")]) == 65
    assert "does not exist" in capsys.readouterr().err
