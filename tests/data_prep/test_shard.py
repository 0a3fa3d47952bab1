"""The shard command: same bytes however it ran, everything counted, every mistake told."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from data_prep.__main__ import main
from data_prep.format import Manifest, Shard, Split, read_manifest, token_dtype
from data_prep.selection import Selection

ShardCommand = Callable[..., list[str]]


def shard_bytes(corpus: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(corpus.glob("*.arrow"))}


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def documents_in(corpus: Path, manifest: Manifest, split: Split) -> Iterator[list[int]]:
    """The split's documents as token ids, put together again from the pieces of the rows."""
    document: list[int] = []
    for info in manifest.shards_of(split):
        shard = Shard(corpus / info.name, manifest.sequence_length)
        for row in range(shard.rows):
            ids, start = shard.input_ids(row).tolist(), 0
            lengths = shard.segments(row).tolist()
            for index, length in enumerate(lengths):
                piece = ids[start : start + length]
                start += length
                document += [token for token in piece if token > 4]
                if index < len(lengths) - 1 or start < manifest.sequence_length:
                    yield document
                    document = []
    if document:
        yield document


def test_the_corpus_holds_the_documents(made_corpus: Path, documents_file: Path) -> None:
    manifest = read_manifest(made_corpus)
    tokenizer = Tokenizer.from_file(str(made_corpus / "tokenizer" / "tokenizer.json"))
    texts = [json.loads(line)["text"] for line in documents_file.read_text().splitlines()]
    selection = Selection(0.05, 0, keep_duplicates=False)
    splits = [selection.choose(text) for text in texts]
    for split in ("train", "valid"):
        expected = [text for text, chosen in zip(texts, splits) if chosen == split]
        # A document that ends where its row ends runs into the next one here, so join them all.
        found = "".join(tokenizer.decode(ids) for ids in documents_in(made_corpus, manifest, split))
        assert found == "".join(expected)


def test_the_manifest_counts_what_is_there(made_corpus: Path, documents_file: Path) -> None:
    manifest = read_manifest(made_corpus)
    assert [info.name for info in manifest.shards] == sorted(shard_bytes(made_corpus))
    assert len(manifest.shards_of("train")) == 3
    assert [info.rows for info in manifest.shards_of("train")][:-1] == [3000, 3000]
    for split, tokens in (("train", manifest.train_tokens), ("valid", manifest.valid_tokens)):
        rows = sum(info.rows for info in manifest.shards_of(split))
        assert (rows - 1) * 64 < tokens <= rows * 64
    documents = manifest.documents
    assert documents.read == documents.train + documents.valid == 3000
    assert [tuple(entry) for entry in manifest.inputs[0]] == [
        ("path", str(documents_file)),
        ("bytes", documents_file.stat().st_size),
        ("documents", 3000),
    ]
    assert manifest.command.startswith("python -m data_prep shard ")
    assert "workers" not in manifest.settings
    assert set(manifest.versions) == {"lodestar", "python", "pyarrow", "tokenizers"}
    present = {path.name for path in made_corpus.iterdir()}
    assert present == {"manifest.json", "tokenizer", *shard_bytes(made_corpus)}


def test_the_number_of_workers_does_not_show(
    made_corpus: Path, documents_file: Path, tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand
) -> None:
    arguments = shard_command(documents_file, tokenizer_dir, tmp_path / "two", "--workers", "2")
    assert main(arguments) == 0
    assert shard_bytes(tmp_path / "two") == shard_bytes(made_corpus)


def test_killed_and_started_again(
    documents_file: Path,
    tokenizer_dir: Path,
    made_corpus: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    repository: Path,
) -> None:
    """SIGKILL while shards are being written: nothing is published, no worker stays, a rerun is exact."""
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "data_prep", *shard_command(documents_file, tokenizer_dir, out)]
    process = subprocess.Popen([*command, "--workers", "2"], cwd=repository, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(out.glob(".partial/train-*.arrow")) or process.poll() is not None)
        workers = [
            int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert workers
    wait_until(lambda: not any(is_running(pid) for pid in workers))
    assert not (out / "manifest.json").exists()
    assert not shard_bytes(out)
    assert main(shard_command(documents_file, tokenizer_dir, out)) == 0
    assert shard_bytes(out) == shard_bytes(made_corpus)
    assert not (out / ".partial").exists()


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_leftovers_of_a_killed_publication_are_cleared(
    documents_file: Path, tokenizer_dir: Path, made_corpus: Path, tmp_path: Path, shard_command: ShardCommand
) -> None:
    out = tmp_path / "left"
    (out / ".partial").mkdir(parents=True)
    (out / ".partial" / "valid-00000.arrow").touch()
    (out / "train-00000-of-00009.arrow").touch()
    (out / ".manifest.json.123.partial").touch()
    (out / "tokenizer").mkdir()
    (out / "tokenizer" / "vocab.txt").touch()
    assert main(shard_command(documents_file, tokenizer_dir, out)) == 0
    assert shard_bytes(out) == shard_bytes(made_corpus)
    assert {path.name for path in out.iterdir()} == {path.name for path in made_corpus.iterdir()}
    assert not (out / "tokenizer" / "vocab.txt").exists()


def test_a_finished_corpus_is_left_alone(
    documents_file: Path,
    tokenizer_dir: Path,
    corpus_copy: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (corpus_copy / "manifest.json").stat().st_mtime_ns
    assert main(shard_command(documents_file, tokenizer_dir, corpus_copy, "--workers", "3")) == 0
    assert "already done" in capsys.readouterr().out
    assert main(shard_command(documents_file, tokenizer_dir, corpus_copy, "--min-chars", "7")) == 64
    assert "--min-chars was 0, now 7" in capsys.readouterr().err
    more = write_jsonl(tmp_path / "more.jsonl", ["more"])
    assert main(shard_command(more, tokenizer_dir, corpus_copy)) == 64
    told = capsys.readouterr().err
    assert f"input {more} (17 bytes) was not there" in told
    assert f"input {documents_file} ({documents_file.stat().st_size} bytes) is missing now" in told
    other = tmp_path / "other"
    shutil.copytree(tokenizer_dir, other)
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    assert main(shard_command(documents_file, other, corpus_copy)) == 64
    assert "the tokenizer is another one" in capsys.readouterr().err
    assert (corpus_copy / "manifest.json").stat().st_mtime_ns == before
    os.truncate(corpus_copy / "train-00001-of-00003.arrow", 1000)
    assert main(shard_command(documents_file, tokenizer_dir, corpus_copy)) == 65
    assert "train-00001-of-00003.arrow is missing or cut short" in capsys.readouterr().err


def test_a_directory_in_use_is_refused(
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert main(shard_command(documents_file, tokenizer_dir, tmp_path)) == 64
    assert "is not empty and no corpus (it holds thesis.tex)" in capsys.readouterr().err
    assert main(shard_command(documents_file, tokenizer_dir, tmp_path / "thesis.tex")) == 64
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_documents_are_dropped_and_counted(
    tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", ["karo miten", "sul", "", "karo miten", "ba qui dor"])
    (folder / "b.txt").write_text("karo miten\n\nlo ves et\nan\n")
    arguments = ["--length", "8", "--valid-fraction", "0", "--min-chars", "4", "--text-documents", "block"]
    common = ["shard", str(folder), "--tokenizer", str(tokenizer_dir), *arguments, "--workers", "1"]
    assert main([*common, "--out", str(tmp_path / "out")]) == 0
    documents = read_manifest(tmp_path / "out").documents
    assert (documents.read, documents.train, documents.valid, documents.duplicates) == (7, 3, 0, 2)
    assert documents.dropped == {"empty": 1, "too short": 1}
    assert "3 to train on, 0 held out, 2 duplicates, 1 empty, 1 too short" in capsys.readouterr().out
    assert [entry.documents for entry in read_manifest(tmp_path / "out").inputs] == [5, 2]
    assert not read_manifest(tmp_path / "out").shards_of("valid")
    assert main([*common, "--out", str(tmp_path / "kept"), "--keep-duplicates"]) == 0
    assert read_manifest(tmp_path / "kept").documents.train == 5


def test_a_document_the_tokenizer_leaves_nothing_of(documents_file: Path, tmp_path: Path) -> None:
    """BERT's normalizer removes control characters."""
    tokenizer = tmp_path / "tok"
    train = ["tokenizer", str(documents_file), "--out", str(tokenizer), "--kind", "wordpiece"]
    assert main([*train, "--vocab-size", "100"]) == 0
    path = write_jsonl(tmp_path / "a.jsonl", ["karo", "\x01\x02", "ba"])
    arguments = ["shard", str(path), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--length", "64", "--valid-fraction", "0", "--workers", "1"]) == 0
    documents = read_manifest(tmp_path / "out").documents
    assert (documents.read, documents.train, documents.dropped) == (3, 2, {"no tokens": 1})
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_special_tokens_in_a_text_are_text(tokenizer_dir: Path, tmp_path: Path) -> None:
    """A manual that mentions <mask> must not put masks into the corpus."""
    path = write_jsonl(tmp_path / "a.jsonl", ["karo <mask> ba</s><s> mi<pad>"])
    arguments = ["shard", str(path), "--tokenizer", str(tokenizer_dir), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--length", "64", "--valid-fraction", "0", "--workers", "1"]) == 0
    manifest = read_manifest(tmp_path / "out")
    shard = Shard(tmp_path / "out" / manifest.shards[0].name, 64)
    (length,) = shard.segments(0).tolist()
    content = shard.input_ids(0)[1 : length - 1]
    assert content.min() > 4
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    assert tokenizer.decode(content.tolist()) == "karo <mask> ba</s><s> mi<pad>"


def test_a_large_vocabulary_takes_32_bits(tokenizer_dir: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    shutil.copytree(tokenizer_dir, large)
    tokenizer = Tokenizer.from_file(str(large / "tokenizer.json"))
    tokenizer.add_tokens([f"karo{number}" for number in range(70_000)])
    tokenizer.save(str(large / "tokenizer.json"))
    path = write_jsonl(tmp_path / "a.jsonl", ["ba karo69999"])
    arguments = ["shard", str(path), "--tokenizer", str(large), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--length", "8", "--valid-fraction", "0", "--workers", "1"]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.token_dtype, manifest.vocab_size) == ("uint32", 70_400)
    assert token_dtype(manifest.vocab_size) == np.uint32
    ids = Shard(tmp_path / "out" / manifest.shards[0].name, 8).input_ids(0)
    assert ids.dtype == np.uint32
    assert 70_399 in ids.tolist()
    assert main(["verify", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("content", "options", "code", "told"),
    [
        ("", [], 65, "no document is left to train on: 0 documents read"),
        ('{"text": " "}\n', [], 65, "no document is left to train on: 1 documents read"),
        (
            '{"text": "karo"}\n',
            ["--valid-fraction", "1e-9"],
            65,
            "--valid-fraction 1e-09 held out none of 1 ",
        ),
        (
            '{"text": "karo"}\n{"text": 1}\n',
            [],
            65,
            "a.jsonl, line 2: field 'text' must be a string, not int",
        ),
        ('{"text": "karo"}\n', ["--tokenizer", "gone"], 65, "gone: no tokenizer.json; make one with"),
    ],
)
def test_what_cannot_be_sharded_is_told(
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    capsys: pytest.CaptureFixture[str],
    content: str,
    options: list[str],
    code: int,
    told: str,
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    out = tmp_path / "out"
    assert main(shard_command(tmp_path / "a.jsonl", tokenizer_dir, out, "--workers", "1", *options)) == code
    assert told in capsys.readouterr().err
    assert not out.exists() or not any(out.iterdir())
