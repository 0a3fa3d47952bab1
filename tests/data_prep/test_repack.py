"""Packing anew gives the bytes that preparing anew would have given."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.format import read_manifest
from tests.shard_files import shard_bytes

ShardCommand = Callable[..., list[str]]


@pytest.mark.parametrize(("length", "packing"), [(32, None), (200, None), (64, "best-fit"), (48, "document")])
def test_it_is_what_shard_would_have_made(
    made_corpus: Path,
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    length: int,
    packing: str | None,
) -> None:
    options = ["--length", str(length)] + (["--packing", packing] if packing else [])
    anew = tmp_path / "anew"
    assert main([*shard_command(documents_file, tokenizer_dir, anew, "--workers", "1"), *options]) == 0
    repacked = tmp_path / "repacked"
    assert main(["repack", str(made_corpus), "--out", str(repacked), "--workers", "1", *options]) == 0
    assert shard_bytes(repacked) == shard_bytes(anew)
    ours, theirs = read_manifest(repacked), read_manifest(anew)
    for name in ("splits", "documents", "sources", "inputs", "shards", "settings", "sequence_length"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.command.startswith("python -m data_prep repack")
    assert main(["verify", str(repacked)]) == 0
    assert {path.name for path in repacked.iterdir()} == {path.name for path in anew.iterdir()}


def test_there_and_back_again(made_corpus: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    to_best_fit = ["--length", "100", "--packing", "best-fit"]
    assert main(["repack", str(made_corpus), "--out", str(there), "--workers", "2", *to_best_fit]) == 0
    to_full = ["--length", "64", "--packing", "full"]
    assert main(["repack", str(there), "--out", str(back), "--workers", "1", *to_full]) == 0
    assert shard_bytes(back) == shard_bytes(made_corpus)


def test_what_is_told(made_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["repack", str(made_corpus), "--out", str(out), "--workers", "1", "--length"]
    assert main([*command, "32"]) == 0
    assert main([*command, "32"]) == 0
    assert f"{out}: already done" in capsys.readouterr().out
    assert main([*command, "40"]) == 64
    assert "already holds another corpus" in capsys.readouterr().err
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    assert main(["repack", str(made_corpus), "--out", str(tmp_path / "thesis"), "--length", "32"]) == 64
    assert "is not empty" in capsys.readouterr().err
    assert main(["repack", str(tmp_path / "gone"), "--out", str(tmp_path / "x"), "--length", "32"]) == 65
    assert "does not exist" in capsys.readouterr().err


def test_a_run_killed_at_its_very_end_leaves_nothing(made_corpus: Path, tmp_path: Path) -> None:
    """After the corpus was published, and before the working directory was gone."""
    out = tmp_path / "out"
    assert main(["repack", str(made_corpus), "--out", str(out), "--length", "32"]) == 0
    (out / ".work" / "shards").mkdir(parents=True)
    (out / ".work" / "plan.json").write_text("{}")

    assert main(["repack", str(made_corpus), "--out", str(out), "--length", "32"]) == 0

    assert not (out / ".work").exists()


def test_a_damaged_shard_is_told(
    corpus_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = corpus_copy / "train-00001-of-00003.arrow"
    path.write_bytes(path.read_bytes()[:-3000])
    command = ["repack", str(corpus_copy), "--out", str(tmp_path / "out"), "--length", "32"]
    assert main([*command, "--workers", "1"]) == 65
    told = capsys.readouterr().err
    assert str(path) in told
    assert "verify" in told
