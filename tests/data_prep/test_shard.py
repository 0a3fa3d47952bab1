"""The shard command: same bytes however it ran, everything counted, every mistake told."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from data_prep.__main__ import main
from data_prep.format import Shard, read_manifest, token_dtype
from data_prep.selection import digest_of, split_of
from tests.shard_files import documents_in, shard_bytes, texts_in

ShardCommand = Callable[..., list[str]]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_the_corpus_holds_the_documents(made_corpus: Path, documents_file: Path) -> None:
    texts = [json.loads(line)["text"] for line in documents_file.read_text().splitlines()]
    for split in ("train", "valid"):
        expected = [text for text in texts if split_of(digest_of(text), 0.05) == split]
        assert sorted(texts_in(made_corpus, split)) == sorted(expected)


def test_neighbours_in_the_corpus_are_none_in_the_source(made_corpus: Path, documents_file: Path) -> None:
    place = {
        json.loads(line)["text"]: number
        for number, line in enumerate(documents_file.read_text().splitlines())
    }
    order = [place[text] for text in texts_in(made_corpus, "train")]
    assert (np.abs(np.diff(order)) <= 1).mean() < 0.01
    thirds = np.array_split(np.array(order), 3)
    assert all(abs(third.mean() - 1500) < 150 for third in thirds)


def test_the_manifest_counts_what_is_there(made_corpus: Path, documents_file: Path) -> None:
    manifest = read_manifest(made_corpus)
    assert [info.name for info in manifest.shards] == sorted(
        path.name for path in made_corpus.glob("*.arrow")
    )
    assert len(manifest.shards_of("train")) == 3
    for split, info in manifest.splits.items():
        shards = manifest.shards_of(split)
        assert info.rows == sum(shard.rows for shard in shards)
        assert (info.rows - len(shards)) * 64 < info.tokens <= info.rows * 64
        assert info.padding == info.rows * 64 - info.tokens
        assert info.documents == len(list(documents_in(made_corpus, split)))
        assert 0 < info.cut_documents <= info.documents
    documents = manifest.documents
    assert documents.read == documents.train + documents.valid == 3000
    assert manifest.splits["train"].documents == documents.train
    assert [tuple(entry) for entry in manifest.inputs[0]] == [
        ("path", str(documents_file)),
        ("bytes", documents_file.stat().st_size),
        ("documents", 3000),
    ]
    (source,) = manifest.sources
    assert (source.read, source.kept) == (3000, 3000)
    content = sum(len(ids) for split in ("train", "valid") for ids in documents_in(made_corpus, split))
    assert source.tokens == content
    assert manifest.command.startswith("python -m data_prep shard ")
    assert "workers" not in manifest.settings
    libraries = {"pyarrow", "tokenizers", "zstandard", "charset-normalizer"}
    assert set(manifest.versions) == {"lodestar", "python", *libraries}
    present = {path.name for path in made_corpus.iterdir()}
    assert present == {"manifest.json", "tokenizer", *shard_bytes(made_corpus)}


def test_the_number_of_workers_does_not_show(
    made_corpus: Path, documents_file: Path, tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand
) -> None:
    arguments = shard_command(documents_file, tokenizer_dir, tmp_path / "two", "--workers", "2")
    assert main(arguments) == 0
    assert shard_bytes(tmp_path / "two") == shard_bytes(made_corpus)


def test_how_the_input_is_stored_does_not_show(
    made_corpus: Path, documents_file: Path, tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand
) -> None:
    """The order of the corpus is drawn from the texts, so files and their order do not matter either."""
    lines = documents_file.read_text().splitlines(keepends=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("".join(lines[2000:]))
    (tmp_path / "in" / "b.jsonl").write_text("".join(lines[:2000]))
    arguments = shard_command(tmp_path / "in", tokenizer_dir, tmp_path / "out", "--workers", "1")
    assert main(arguments) == 0
    assert shard_bytes(tmp_path / "out") == shard_bytes(made_corpus)


def test_another_seed_is_another_order(
    made_corpus: Path, documents_file: Path, tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand
) -> None:
    arguments = shard_command(documents_file, tokenizer_dir, tmp_path / "out", "--workers", "1")
    assert main([*arguments, "--seed", "1"]) == 0
    first, second = texts_in(made_corpus, "train"), texts_in(tmp_path / "out", "train")
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("packing", ["document", "best-fit"])
def test_other_packings(
    documents_file: Path,
    tokenizer_dir: Path,
    made_corpus: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    packing: str,
) -> None:
    arguments = shard_command(documents_file, tokenizer_dir, tmp_path / "out", "--workers", "1")
    assert main([*arguments, "--packing", packing]) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert texts_in(tmp_path / "out", "train") == texts_in(made_corpus, "train")
    info = read_manifest(tmp_path / "out").splits["train"]
    assert info.padding > 0
    assert info.rows * 64 == info.tokens + info.padding


def test_leftovers_of_an_interrupted_publication_are_finished(
    documents_file: Path, tokenizer_dir: Path, made_corpus: Path, tmp_path: Path, shard_command: ShardCommand
) -> None:
    """Killed between the first shard's final name and the manifest."""
    out = tmp_path / "left"
    arguments = shard_command(documents_file, tokenizer_dir, out, "--workers", "1")
    with pytest.MonkeyPatch.context() as patch:

        def die(*arguments: object) -> None:
            raise OSError("killed here")

        patch.setattr("data_prep.stages.publish.write_atomically", die)
        assert main(arguments) == 74
    assert (out / "train-00000-of-00003.arrow").exists()
    assert not (out / "manifest.json").exists()
    assert main(arguments) == 0
    assert shard_bytes(out) == shard_bytes(made_corpus)
    assert {path.name for path in out.iterdir()} == {path.name for path in made_corpus.iterdir()}


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
    assert f"input {documents_file} ({documents_file.stat().st_size} bytes) is no longer named" in told
    other = tmp_path / "other"
    shutil.copytree(tokenizer_dir, other)
    saved = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(saved.rstrip() + "\n\n")  # the same content
    assert main(shard_command(documents_file, other, corpus_copy)) == 0
    (other / "tokenizer.json").write_text(
        saved.replace('"add_prefix_space": false', '"add_prefix_space": true')
    )
    assert main(shard_command(documents_file, other, corpus_copy)) == 64
    assert "the tokenizer is another one" in capsys.readouterr().err
    assert (corpus_copy / "manifest.json").stat().st_mtime_ns == before
    os.truncate(corpus_copy / "train-00001-of-00003.arrow", 1000)
    assert main(shard_command(documents_file, tokenizer_dir, corpus_copy)) == 65
    assert "train-00001-of-00003.arrow is missing or cut short" in capsys.readouterr().err


def test_an_unfinished_corpus_is_not_mixed_with_another(
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    capsys: pytest.CaptureFixture[str],
) -> None:
    documents = tmp_path / "documents.jsonl"
    shutil.copyfile(documents_file, documents)
    out = tmp_path / "out"
    task = ["--task", "0/2", "--workers", "1"]
    assert main(shard_command(documents, tokenizer_dir, out, *task)) == 0
    assert main(shard_command(documents, tokenizer_dir, out, "--seed", "3", *task)) == 64
    told = capsys.readouterr().err
    assert "holds the beginnings of a corpus made otherwise:\n  --seed was 0, now 3" in told
    with documents.open("a") as file:
        file.write('{"text": "one more"}\n')
    assert main(shard_command(documents, tokenizer_dir, out, *task)) == 64
    assert f"input {documents} has been written to since" in capsys.readouterr().err


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
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train-00000-of-00001.arrow").write_text("precious too")
    assert main(shard_command(documents_file, tokenizer_dir, tmp_path / "mine")) == 64
    assert (tmp_path / "mine" / "train-00000-of-00001.arrow").read_text() == "precious too"


def test_documents_are_dropped_and_counted(
    tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", ["karo miten", "sul", "", "karo miten", "ba qui dor", "spam " * 200])
    (folder / "b.txt").write_text("karo miten\n\nlo ves et\nan\n")
    arguments = ["--length", "8", "--valid-fraction", "0", "--min-chars", "4", "--text-documents", "block"]
    common = ["shard", str(folder), "--tokenizer", str(tokenizer_dir), *arguments, "--workers", "1"]
    assert main([*common, "--out", str(tmp_path / "out")]) == 0
    manifest = read_manifest(tmp_path / "out")
    documents = manifest.documents
    assert (documents.read, documents.train, documents.valid, documents.duplicates) == (8, 3, 0, 2)
    assert documents.dropped == {"empty": 1, "too repetitive": 1, "too short": 1}
    told = "3 to train on, 0 held out, 2 duplicates, 1 empty, 1 too repetitive, 1 too short"
    assert told in capsys.readouterr().out
    assert [entry.documents for entry in manifest.inputs] == [6, 2]
    assert not manifest.shards_of("valid")
    samples = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert {sample["reason"]: sample["text"][:9] for sample in samples} == {
        "empty": "",
        "too repetitive": "spam spam",
        "too short": "sul",
    }
    assert {sample["where"] for sample in samples} == {str(folder / "a.jsonl")}
    assert main([*common, "--out", str(tmp_path / "kept"), "--keep-duplicates"]) == 0
    assert read_manifest(tmp_path / "kept").documents.train == 5
    assert sorted(texts_in(tmp_path / "kept", "train")).count("karo miten") == 3


def test_damaged_records_are_counted_or_stop(
    tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "karo"}\n{"text": 1}\n{"text": "sul"}\n\xff\n{"text": "ba\\u0000 ten"}\n')
    common = ["shard", str(path), "--tokenizer", str(tokenizer_dir), "--length", "16"]
    options = ["--valid-fraction", "0", "--workers", "1"]
    assert main([*common, *options, "--out", str(tmp_path / "strict"), "--strict"]) == 65
    told = capsys.readouterr().err
    assert f"{path}, line 2: text is not a string: field 'text' must be a string, not int" in told
    assert main([*common, *options, "--out", str(tmp_path / "out")]) == 0
    streams = capsys.readouterr()
    assert "1 damaged (not UTF-8), 1 damaged (text is not a string)" in streams.out
    assert "warning: some of the input is damaged and left out\n" in streams.err
    assert (
        f"\n  {path}, line 2: text is not a string: field 'text' must be a string, not int\n" in streams.err
    )
    documents = read_manifest(tmp_path / "out").documents
    assert (documents.read, documents.train) == (5, 3)
    assert documents.damaged == {"not UTF-8": 1, "text is not a string": 1}
    assert sorted(texts_in(tmp_path / "out", "train")) == ["ba ten", "karo", "sul"]
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_a_document_the_tokenizer_leaves_nothing_of(documents_file: Path, tmp_path: Path) -> None:
    """BERT's normalizer removes private-use and format characters."""
    tokenizer = tmp_path / "tok"
    train = ["tokenizer", str(documents_file), "--out", str(tokenizer), "--kind", "wordpiece"]
    assert main([*train, "--vocab-size", "100"]) == 0
    path = write_jsonl(tmp_path / "a.jsonl", ["karo", "\u200b\u200d", "ba"])
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
    (ids,) = documents_in(tmp_path / "out", "train")
    assert min(ids) > 4
    assert texts_in(tmp_path / "out", "train") == ["karo <mask> ba</s><s> mi<pad>"]


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
        ("[]\n", [], 65, "line 1: broken JSON: expected an object like"),
        ('{"text": "karo"}\n', ["--min-chars", "9", "--max-chars", "3"], 64, "there are none"),
        ('{"body": "karo"}\n', [], 65, "no field 'text'; its fields are 'body'\nname the fields"),
        ('{"text": "karo"}\n', ["--tokenizer", "gone"], 65, "gone: no tokenizer.json; make one with"),
        ('{"text": "karo"}\n', ["--filter", "nowhere:f"], 64, "nowhere"),
        ('{"text": "karo"}\n', ["--task", "2/2"], 64, "--task 2/2: expected I/N with I from 0 to N-1"),
        ('{"text": "karo"}\n', ["--task", "slurm"], 64, "--task slurm: this is no job of an array"),
        ('{"text": "karo"}\n', ["--mix", "m.yaml"], 64, "name either INPUT files or a --mix file"),
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


def test_no_held_out_document_is_told(
    tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["karo", "sul"])
    arguments = shard_command(path, tokenizer_dir, tmp_path / "out", "--workers", "1")
    assert main([*arguments, "--valid-fraction", "1e-9"]) == 0
    assert "--valid-fraction 1e-09 held out none of 2 documents" in capsys.readouterr().err


def test_another_reading_of_the_same_files_is_another_corpus(
    tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "karo", "body": "sul"}\n')
    arguments = shard_command(path, tokenizer_dir, tmp_path / "out", "--workers", "1")
    assert main(arguments) == 0
    assert main([*arguments, "--text-field", "body"]) == 64
    assert "source corpus: text field was ['text'], now ['body']" in capsys.readouterr().err
    assert main([*arguments, "--packing", "document"]) == 64
    assert f"other rows of it with 'python -m data_prep repack {tmp_path / 'out'}'" in capsys.readouterr().err


def test_a_tokenizer_that_finds_its_own_tokens_in_texts(tmp_path: Path) -> None:
    """A Unigram model has </s> as an ordinary piece; it must not pass for the end of a document."""
    tokenizer = Tokenizer(
        models.Unigram(
            [("<unk>", 0.0), ("<s>", -1.0), ("</s>", -1.0), ("<pad>", -1.0)]
            + [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz \u2581"],
            0,
        )
    )
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    config = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    path = write_jsonl(tmp_path / "a.jsonl", [f"karo {'x' * number}</s></s>" for number in range(40)])
    common = ["--valid-fraction", "0", "--workers", "1", "--length", "16", "--max-repetition", "1"]
    arguments = [
        "shard",
        str(path),
        "--tokenizer",
        str(tmp_path / "tokenizer"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, *common]) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert sorted(len(ids) for ids in documents_in(tmp_path / "out", "train")) == [
        5 + number for number in range(40)
    ]


def test_an_error_of_the_disk_loses_nothing(
    documents_file: Path,
    tokenizer_dir: Path,
    made_corpus: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A disk or a network that fails for a while is no damage of the input."""
    arguments = shard_command(documents_file, tokenizer_dir, tmp_path / "out", "--workers", "1")
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.inputs.raw_pieces._read_range", _failing_reader)
        assert main(arguments) == 74
    assert f"Input/output error: '{documents_file}'" in capsys.readouterr().err
    assert main(arguments) == 0
    assert shard_bytes(tmp_path / "out") == shard_bytes(made_corpus)


def _failing_reader(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    yield file.read(min(num_bytes, 500_000))
    raise OSError(errno.EIO, os.strerror(errno.EIO))
