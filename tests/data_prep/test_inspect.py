"""inspect shows the manifest's counts and real rows."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.format import Split, read_manifest
from data_prep.tokenizing.directory import open_directory
from pipeline.data.corpus import CorpusSplit


def test_counts_lengths_and_rows(made_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(made_corpus), "--sample", "3"]) == 0
    shown = capsys.readouterr().out
    manifest = read_manifest(made_corpus)
    assert f"{manifest.splits['train'].tokens:,}" in shown
    assert f"{manifest.documents.valid:,}" in shown
    shares = [float(share) for share in re.findall(r"to +\d+ +([\d.]+)%", shown)]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert shown.count("train row") == 3
    pieces = re.findall(r"^ +document \d+: \d+ tokens.*\n +<s>", shown, re.MULTILINE)
    assert len(pieces) >= 3
    assert re.search(r"(karo|miten|sul)", shown)


def test_the_seed_chooses_the_rows(made_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for seed in ("1", "1", "2"):
        assert main(["inspect", str(made_corpus), "--seed", seed]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2]


def rows_shown(shown: str) -> dict[int, str]:
    """What was printed of each row, by number."""
    parts = re.split(r"^  (?:train|valid) row (\d+): ", shown, flags=re.MULTILINE)[1:]
    return {int(number): text for number, text in zip(parts[::2], parts[1::2])}


@pytest.mark.parametrize("split", ["train", "valid"])
def test_rows_are_those_that_training_reads_under_their_numbers(
    made_corpus: Path, capsys: pytest.CaptureFixture[str], split: Split
) -> None:
    manifest = read_manifest(made_corpus)
    ends = np.cumsum([shard.rows for shard in manifest.shards_of(split)])
    # Both sides of every border between shards: that is where another way of counting would differ.
    numbers = sorted({0, 7, *(ends - 1).tolist(), *ends[:-1].tolist()})
    assert main(["inspect", str(made_corpus), "--split", split, "--rows", *map(str, numbers)]) == 0
    shown = rows_shown(capsys.readouterr().out)
    assert list(shown) == numbers
    trained = CorpusSplit(made_corpus, split).read(np.array(numbers))
    tokenizer = open_directory(made_corpus / "tokenizer").tokenizer
    for text, ids, length, starts in zip(shown.values(), trained.input_ids, trained.lengths, trained.starts):
        borders = [*np.unique(starts[:length]).tolist(), int(length)]
        pieces = [ids[start:end].tolist() for start, end in pairwise(borders)]
        told = re.split(r"^ +document \d+: (\d+) tokens.*\n", text, flags=re.MULTILINE)[1:]
        assert [int(count) for count in told[::2]] == [len(piece) for piece in pieces]
        decoded = [tokenizer.decode(piece, skip_special_tokens=False) for piece in pieces]
        assert [squeezed(part) for part in told[1::2]] == [squeezed(part) for part in decoded]


def squeezed(text: str) -> str:
    """Without the white space that wrapping changes."""
    return "".join(text.split())


def test_rows_are_told_with_shard_block_and_document(
    documents_file: Path, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [json.loads(line)["text"] for line in documents_file.read_text().splitlines()[:40]]
    inputs = tmp_path / "a.jsonl"
    inputs.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out = tmp_path / "out"
    arguments = ["shard", str(inputs), "--tokenizer", str(tokenizer_dir), "--out", str(out)]
    assert main([*arguments, "--length", "16", "--valid-fraction", "0", "--workers", "1"]) == 0
    capsys.readouterr()
    rows = read_manifest(out).splits["train"].rows
    assert main(["inspect", str(out), "--rows", *map(str, range(rows))]) == 0
    shown = rows_shown(capsys.readouterr().out)
    assert shown[5].startswith("row 5 of train-00000-of-00001.arrow, in block 0\n")
    # Every document's pieces, in the order of their offsets, leave no token out.
    told = re.findall(r"document (\d+): (\d+) tokens(?:, from its token (\d+) on)?", "".join(shown.values()))
    pieces = sorted((int(number), int(offset or 0), int(length) - 2) for number, length, offset in told)
    assert {number for number, _, _ in pieces} == set(range(len(texts)))
    for (number, offset, length), (next_number, next_offset, _) in pairwise(pieces):
        assert next_offset == (offset + length if number == next_number else 0)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_row_that_is_not_there(made_corpus: Path, capsys: pytest.CaptureFixture[str], split: Split) -> None:
    rows = read_manifest(made_corpus).splits[split].rows
    numbers = ["0", str(rows), "123456789"]
    assert main(["inspect", str(made_corpus), "--split", split, "--rows", *numbers]) == 64
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"--rows {rows} 123456789: the {split} rows of" in captured.err
    assert f"numbered 0 to {rows - 1};" in captured.err


def test_a_split_without_rows(
    documents_file: Path, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "shard",
        str(documents_file),
        "--tokenizer",
        str(tokenizer_dir),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--length", "32", "--valid-fraction", "0", "--workers", "1"]) == 0
    for options in (["--rows", "0"], []):
        assert main(["inspect", str(tmp_path / "out"), "--split", "valid", *options]) == 64
        assert "has no such rows; splits with rows: train" in capsys.readouterr().err


def test_a_shard_that_lost_rows_is_told(corpus_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = read_manifest(corpus_copy).shards_of("train")
    (corpus_copy / shards[1].name).write_bytes((corpus_copy / shards[0].name).read_bytes())
    assert main(["inspect", str(corpus_copy), "--rows", str(shards[0].rows)]) == 65
    assert (
        f"{shards[1].name}: {shards[0].rows} rows, its manifest says {shards[1].rows}"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--rows", "1", "--sample", "2"],
        ["--rows", "1", "--dropped"],
        ["--rows", "1", "--png", "a.png"],
        ["--dropped", "--png", "a.png"],
        ["--rows", "-1"],
        ["--rows"],
        ["--split", "test"],
    ],
)
def test_options_that_make_no_sense(made_corpus: Path, options: list[str]) -> None:
    try:
        code: object = main(["inspect", str(made_corpus), *options])
    except SystemExit as ended:  # argparse's own
        code = ended.code
    assert code == 64


def test_a_corpus_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "gone")]) == 65
    assert "does not exist" in capsys.readouterr().err


def test_the_figure_is_drawn(made_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "figures" / "corpus.png"
    assert main(["inspect", str(made_corpus), "--sample", "0", "--png", str(figure)]) == 0
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
