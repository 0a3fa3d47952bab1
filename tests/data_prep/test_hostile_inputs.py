"""Inputs as they come: too long, broken, in small languages. Counted, told, and in bounded memory."""

import bz2
import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.cleaning.normalize import clean_text
from data_prep.format import read_manifest
from tests.shard_files import texts_in

ShardCommand = Callable[..., list[str]]
SHARED = Path(__file__).parents[3] / "shared" / "data" / "masakhanews"
# Of this process as the kernel counts it since its start: getrusage would count the one that started it, too.
_MEASURE = """
import re, resource, sys
from pathlib import Path
from data_prep.__main__ import main
code = main(sys.argv[1:])
own = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print("peak", max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) // 1024)
sys.exit(code)
"""


def test_lines_of_any_length_in_bounded_memory(
    tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand, repository: Path
) -> None:
    """A line of 300 MB is skipped without being held; a document of 15 MB is tokenized in stretches."""
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "karo miten"}\n{"text": "')
        for _ in range(300):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "')
        for number in range(500_000):
            file.write(b"ka%d romi ten sul baqui dor " % number)
        file.write(b'"}\n{"text": "lo ves"}\n')
    arguments = shard_command(
        path, tokenizer_dir, tmp_path / "out", "--workers", "2", "--valid-fraction", "0"
    )
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE, *arguments], cwd=repository, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    documents = read_manifest(tmp_path / "out").documents
    assert (documents.read, documents.train) == (4, 3)
    assert documents.damaged == {"record too large": 1}
    assert int(result.stdout.split("peak ")[1]) < 500
    assert "a.jsonl, line 2" in (tmp_path / "out" / "dropped.jsonl").read_text()


def test_a_broken_archive_gives_what_comes_before(
    tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lines = b"".join(b'{"text": "karo miten %d"}\n' % number for number in range(20_000))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines)[:-2000])
    (folder / "b.jsonl.bz2").write_bytes(bz2.compress(b'{"text": "sul"}\n'))
    arguments = shard_command(folder, tokenizer_dir, tmp_path / "out", "--workers", "1")
    assert main(arguments) == 0
    assert "1 damaged (broken file)" in capsys.readouterr().out
    documents = read_manifest(tmp_path / "out").documents
    assert 10_000 < documents.train + documents.valid < 20_001
    assert documents.read == documents.train + documents.valid + 1
    strict = shard_command(folder, tokenizer_dir, tmp_path / "strict", "--workers", "1", "--strict")
    assert main(strict) == 65
    assert f"{folder / 'a.jsonl.gz'}: broken file" in capsys.readouterr().err


def test_a_full_disk_is_told_and_nothing_is_lost(
    documents_file: Path,
    tokenizer_dir: Path,
    made_corpus: Path,
    tmp_path: Path,
    shard_command: ShardCommand,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = shard_command(documents_file, tokenizer_dir, out, "--workers", "1")
    for module in ("data_prep.stages.tokenize.write_part", "data_prep.stages.pack.ShardWriter.write"):
        with pytest.MonkeyPatch.context() as patch:
            real, calls = _attribute(module), []

            def full(*values: object, real=real, calls=calls) -> object:
                calls.append(1)
                if len(calls) == 3:
                    raise OSError(28, "No space left on device")
                return real(*values)

            patch.setattr(module, full)
            assert main(arguments) == 74
        assert "No space left on device" in capsys.readouterr().err
        assert not (out / "manifest.json").exists()
    assert main(arguments) == 0
    names = [path.name for path in sorted(made_corpus.glob("*.arrow"))]
    assert [path.name for path in sorted(out.glob("*.arrow"))] == names
    assert all((out / name).read_bytes() == (made_corpus / name).read_bytes() for name in names)


def _attribute(path: str) -> Callable[..., object]:
    import pkgutil

    return pkgutil.resolve_name(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_disk(
    documents_file: Path, tokenizer_dir: Path, tmp_path: Path, shard_command: ShardCommand, repository: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        arguments = shard_command(documents_file, tokenizer_dir, small / "out", "--workers", "2")
        command = [sys.executable, "-m", "data_prep", *arguments]
        result = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
        assert result.returncode == 74
        assert "No space left on device" in result.stderr
        assert "Traceback" not in result.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        assert subprocess.run(command, cwd=repository, capture_output=True, timeout=120).returncode == 0
        assert main(["verify", str(small / "out")]) == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("language", ["yor", "orm"])
def test_low_resource_languages_keep_every_character(tmp_path: Path, language: str) -> None:
    path = SHARED / language / "dev.tsv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    fields = ["--text-field", "headline", "--text-field", "text"]
    tokenizer, out = tmp_path / "tokenizer", tmp_path / "out"
    train = ["tokenizer", str(path), "--out", str(tokenizer), "--vocab-size", "2000", *fields]
    assert main(train) == 0
    options = ["--length", "128", "--valid-fraction", "0", "--workers", "1"]
    assert (
        main(["shard", str(path), "--tokenizer", str(tokenizer), "--out", str(out), *options, *fields]) == 0
    )
    manifest = read_manifest(out)
    found = set(texts_in(out))
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    texts = {clean_text("\n\n".join((row["headline"], row["text"])), "nfc") for row in rows}
    assert found == texts
    assert not manifest.documents.dropped
    assert json.loads((tokenizer / "tokenizer_config.json").read_text())["unk_token"] == "<unk>"
