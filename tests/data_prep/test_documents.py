"""Reading inputs: every format gives the same documents; every mistake is told with file and line."""

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from data_prep.documents import TextDocuments, find_inputs, read_documents
from data_prep.errors import DataError, UsageError

TEXTS = ["one", "zwei \u00fc\n\nzeilen", "drei \U0001f600", ""]
JSON_LINES = "\n".join(json.dumps({"text": text, "n": 1}) for text in TEXTS).encode() + b"\n"
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def texts_of(path: Path, text_documents: TextDocuments = "file", text_field: str = "text") -> list[str]:
    return [document.text for document in read_documents(path, text_field, text_documents)]


@pytest.mark.parametrize("ending", COMPRESS)
def test_every_compression_gives_the_same_documents(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(COMPRESS[ending](JSON_LINES))
    documents = list(read_documents(path, "text", "file"))
    assert [document.text for document in documents] == TEXTS
    assert documents[-1].position == path.stat().st_size


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_files_compressed_in_several_parts(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(COMPRESS[ending](JSON_LINES[:10]) + COMPRESS[ending](JSON_LINES[10:]))
    assert texts_of(path) == TEXTS


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_a_compressed_file_cut_short_is_told(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cut.jsonl{ending}"
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(20_000))
    path.write_bytes(COMPRESS[ending](lines)[:-9])
    with pytest.raises(DataError, match=r"cut\.jsonl.*cannot be read.*end"):
        texts_of(path)


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_a_file_that_is_not_compressed_is_told(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"plain.txt{ending}"
    path.write_bytes(b"just text")
    with pytest.raises(DataError, match=r"plain\.txt.*cannot be read"):
        texts_of(path)


def test_what_a_document_is_in_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\n\n \nthree".encode())
    assert texts_of(path, "file") == ["one\ntwo\n\n \nthree"]
    assert texts_of(path, "block") == ["one\ntwo", "three"]
    assert texts_of(path, "line") == ["one", "two", "", " ", "three"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"text": "a"', r"bad\.jsonl, line 2: .*found: \{\"text\": \"a\""),
        (b'["a"]', r'line 2: expected a JSON object per line, like \{"text": "\.\.\."\}'),
        (b'{"body": "a", "id": 3}', r"line 2: no field 'text'; its fields are 'body', 'id'; .*--text-field"),
        (b'{"text": 5}', r"line 2: field 'text' must be a string, not int"),
        (b'{"text": "a\\ud800"}', r"line 2: field 'text' holds half a surrogate pair"),
        (b'{"text": "\xe4"}', r"line 2: byte 0xe4 at column 11 is not UTF-8; .*iconv"),
        (b"[" * 200_000, r"line 2: JSON nested too deeply"),
    ],
)
def test_a_bad_line_is_told_with_its_number(tmp_path: Path, line: bytes, told: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(DataError, match=told):
        texts_of(path)


def test_another_text_field(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"body": "a"}\n\n{"body": "b"}\n')
    assert texts_of(path, text_field="body") == ["a", "b"]


def test_inputs_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    names = ["b/2.jsonl.gz", "b/1.txt", "b/c/0.json.zst", "b/readme.md", "b/.hidden/x.txt", "a.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    in_b = ["b/1.txt", "b/2.jsonl.gz", "b/c/0.json.zst"]
    assert found(tmp_path, "b") == in_b
    assert found(tmp_path, "b", "a.txt", "b/1.txt") == [*in_b, "a.txt"]
    assert found(tmp_path, "b/*.txt", "a.txt") == ["b/1.txt", "a.txt"]
    assert found(tmp_path, "**/*.txt") == ["a.txt", "b/1.txt"]


def found(root: Path, *names: str) -> list[str]:
    return [str(path.relative_to(root)) for path in find_inputs([str(root / name) for name in names])]


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.pdf").touch()
    with pytest.raises(DataError, match=r"gone\.txt: no such file or directory"):
        find_inputs([str(tmp_path / "gone.txt")])
    with pytest.raises(DataError, match=r"empty: this directory holds no \.txt, \.jsonl"):
        find_inputs([str(tmp_path / "empty")])
    with pytest.raises(DataError, match=r"x\*\.txt: no file matches"):
        find_inputs([str(tmp_path / "x*.txt")])
    for name in ("a.pdf", "*.pdf"):
        with pytest.raises(UsageError, match=r"a\.pdf.* cannot tell its format.*expected \.txt"):
            find_inputs([str(tmp_path / name)])
