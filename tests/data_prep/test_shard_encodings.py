"""The encoding of its inputs is part of what a corpus is, and does not show in its shards."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.format import read_manifest
from tests.shard_files import shard_bytes, texts_in

ShardCommand = Callable[..., list[str]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-be", "cp037", "cp1252"])
def test_how_the_text_is_encoded_does_not_show(
    documents_file: Path,
    tokenizer_dir: Path,
    made_corpus: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    encoding: str,
) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "out"
    path.write_bytes(documents_file.read_text(encoding="utf-8").encode(encoding))
    assert main(shard_command(path, tokenizer_dir, out, "--encoding", encoding, "--workers", "2")) == 0
    assert shard_bytes(out) == shard_bytes(made_corpus)


def test_an_encoding_is_part_of_what_a_corpus_is(
    tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "a.txt", tmp_path / "out"
    path.write_text("caf\u00e9", encoding="cp1252")
    arguments = shard_command(path, tokenizer_dir, out, "--workers", "1", "--valid-fraction", "0")
    assert main([*arguments, "--encoding", "CP1252", "--task", "0/1"]) == 0
    assert main([*arguments, "--encoding", "latin-1"]) == 64
    told = capsys.readouterr().err
    assert "source corpus: encoding was 'cp1252', now 'iso8859-1'" in told
    assert "how the inputs are divided" not in told
    assert main([*arguments, "--encoding", "windows-1252"]) == 0
    assert read_manifest(out).sources[0].encoding == "cp1252"
    assert texts_in(out) == ["caf\u00e9"]
    assert main(arguments) == 64
    assert "source corpus: encoding was 'cp1252', now 'utf-8'" in capsys.readouterr().err


def test_what_was_made_before_encodings_could_be_named_is_utf8(
    documents_file: Path,
    tokenizer_dir: Path,
    corpus_copy: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def forget(path: Path, key: str) -> None:
        content = json.loads(path.read_text())
        for source in content["sources"]:
            assert source.pop(key) == "utf-8"
        path.write_text(json.dumps(content))

    forget(corpus_copy / "manifest.json", "encoding")
    assert main(shard_command(documents_file, tokenizer_dir, corpus_copy)) == 0
    assert "already done" in capsys.readouterr().out
    out = tmp_path / "out"
    arguments = shard_command(documents_file, tokenizer_dir, out, "--workers", "1")
    assert main([*arguments, "--task", "0/2"]) == 0
    forget(out / ".work" / "plan.json", "encoding")
    assert main(arguments) == 0
    assert shard_bytes(out) == shard_bytes(corpus_copy)
