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
    assert f"{manifest.splits['train'].tokens:,}" in shown
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


def test_the_figure_is_drawn(made_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "figures" / "corpus.png"
    assert main(["inspect", str(made_corpus), "--rows", "0", "--png", str(figure)]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert str(figure) in capsys.readouterr().out


def test_fertility_is_that_of_the_text(
    tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("karo miten sul", encoding="utf-8")
    arguments = ["shard", str(path), "--tokenizer", str(tokenizer_dir), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--length", "32", "--valid-fraction", "0", "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    tokens = read_manifest(tmp_path / "out").sources[0].tokens
    assert f"tokenizer: {tokens / 3:.2f} tokens per word, {14 / tokens:.2f} bytes per token" in shown
    assert "0.000% unknown" in shown


def test_dropped_documents_are_shown(
    tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "karo miten"}\n{"text": "ba"}\nbroken\n{"text": "karo miten"}\n')
    arguments = ["shard", str(path), "--tokenizer", str(tokenizer_dir), "--out", str(tmp_path / "out")]
    options = ["--length", "32", "--valid-fraction", "0", "--workers", "1", "--min-chars", "3"]
    assert main([*arguments, *options]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "out"), "--dropped"]) == 0
    shown = capsys.readouterr().out
    assert "3 of 4 documents were left out" in shown
    assert "too short: 1" in shown
    assert "damaged: broken JSON: 1" in shown
    assert "a.jsonl, line 3" in " ".join(shown.split())
    assert "duplicate: 1" in shown
    (tmp_path / "out" / "dropped.jsonl").write_text("{")
    assert main(["inspect", str(tmp_path / "out"), "--dropped"]) == 65
    assert "dropped.jsonl: cannot be read" in capsys.readouterr().err
