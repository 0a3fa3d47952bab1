"""What is wrong with a record or a file is told exactly, and costs nothing beside it."""

import dataclasses
import errno
import gzip
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_files import parquet, records_of, source_of

from data_prep.errors import DataError
from data_prep.inputs import raw_pieces
from data_prep.inputs.damage import Damage
from data_prep.inputs.parts import read_parts
from data_prep.inputs.segments import Segment, Stretch
from data_prep.inputs.sources import TextDocuments

GOOD = b'{"text": "good"}\n'
NAME_IT = "is not UTF-8; name the file's encoding with --encoding, such as latin-1 or cp1252"


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"text": "a"', "broken JSON", 'found: {"text": "a"'),
        (b'{"text": "a"} {}', "broken JSON", "Extra data"),
        (b'{"text": "a\0"}', "broken JSON", "Invalid control character"),
        (b"x" * 500, "broken JSON", "found: " + "x" * 57 + "..."),
        (b"[" * 200_000, "broken JSON", "nested too deeply"),
        (b'["a"]', "broken JSON", 'expected an object like {"text": "..."} on each line; found: ["a"]'),
        (b'{"n": ' + b"9" * 5000 + b"}", "broken JSON", "Exceeds the limit"),
        (b'{"text": "a\\ud800"}', "broken JSON", "\\ud800 is half of a surrogate pair"),
        (b'{"text": "\xe4"}', "not UTF-8", f"byte 0xe4 at column 11 {NAME_IT}"),
        (b'{"text": "\xed\xa0\x80"}', "not UTF-8", "byte 0xed at column 11"),
        (
            b'{"body": "a", "id": 3}',
            "no text field",
            "name one with --text-field; its fields are 'body', 'id'",
        ),
        (b"{}", "no text field", "its fields are none"),
        (b'{"text": 5}', "text is not a string", "field 'text' must be a string, not int"),
        (b'{"text": null}', "text is not a string", "not null"),
        (b'{"text": ["a"]}', "text is not a string", "not list"),
    ],
)
def test_json_lines(tmp_path: Path, line: bytes, reason: str, detail: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\r\n" + GOOD)
    first, damaged, last = records_of(source_of(path))
    assert (first, last) == ("good", "good")
    check(damaged, reason, f"{path}, line 3", detail)


def check(record: str | Damage, reason: str, where: str, detail: str) -> None:
    assert isinstance(record, Damage)
    assert (record.reason, record.where) == (reason, where)
    assert detail in record.detail
    assert len(record.detail) <= 200
    assert record.detail.isprintable()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"text": "a\\u0000b"}', "a\0b"),
        (b'{"text": "\\ud83d\\ude00"}', "\U0001f600"),
        (b'{"text": "a", "bad": "\\ud800"}', "a"),
        (b'{"text": "a", "text": "b", "n": NaN}', "b"),
        (b'  {"text": "\xe2\x80\xa8\xc2\x85"}  ', "\u2028\x85"),
        (b'\xef\xbb\xbf{"text": "a"}', "a"),
    ],
)
def test_json_that_is_strange_but_right(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert records_of(source_of(path)) == [expected]


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (b"1", "broken row", "1 fields, but the header names 2; found: 1"),
        (b"1,a,b", "broken row", "3 fields, but the header names 2; found: 1,a,b"),
        (b"1,a\rb", "broken row", "found: 1,a b"),
        (b"1,\xe4", "not UTF-8", f"byte 0xe4 at column 3 {NAME_IT}"),
        (b'1,"a\n\xe4"', "not UTF-8", "byte 0xe4 at column 1"),
        (b"  ", "broken row", "1 fields"),
    ],
)
def test_rows(tmp_path: Path, row: bytes, reason: str, detail: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(b'id,text\n1,"a\nb"\n\r\n' + row + b"\n2,good")
    first, damaged, last = records_of(source_of(path))
    assert (first, last) == ("a\nb", "good")
    check(damaged, reason, f"{path}, line 5", detail)


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b'text\tid\na\t1\n"b\t2\nc\t3\nd "" d\t4\n')
    first, damaged, *rest = records_of(source_of(path), part_bytes=1)
    assert (first, rest) == ("a", ["c", 'd "" d'])
    check(damaged, "broken row", f"{path}, line 3", 'a quote is never closed; found: "b 2')


@pytest.mark.parametrize(
    ("name", "content", "detail"),
    [
        ("a.csv", b"", "no header line"),
        ("a.csv", b"\n\n", "no header line"),
        ("a.csv", b'text,"id\n1,2\n', "a quote that is never closed"),
        ("a.csv", b"id,text,text\n1,a,b\n", "names 'text' more than once"),
        ("a.csv", b"\xe4\n", "in its header line, byte 0xe4 at column 1"),
        ("a.parquet", b"", ""),
        ("a.parquet", b"PAR1" * 9, ""),
        ("a.arrow", b"", ""),
        ("a.arrow", b"text", ""),
        ("a.arrow", b"ARROW1\0\0", ""),
        ("a.parquet.gz", b"text", "header"),
        ("a.txt.zst", b"text", "zstd"),
    ],
)
def test_files(tmp_path: Path, name: str, content: bytes, detail: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    good = tmp_path / "good.jsonl"
    good.write_bytes(GOOD)
    damaged, last = records_of(source_of(path, good))
    assert last == "good"
    check(damaged, "broken file", str(path), detail)


@pytest.mark.parametrize(
    ("text_documents", "expected"),
    [
        ("file", ["one\ntwo\n\n \nthree"]),
        ("block", ["one\ntwo", "three"]),
        ("line", ["one", "two", "", " ", "three"]),
    ],
)
def test_what_a_document_is_in_a_text_file(
    tmp_path: Path, text_documents: TextDocuments, expected: list[str]
) -> None:
    path, empty = tmp_path / "a.txt", tmp_path / "empty.md"
    path.write_bytes("\ufeffone\r\ntwo\n\n \nthree".encode())
    empty.write_bytes(b"")
    assert records_of(source_of(empty, path, empty, text_documents=text_documents)) == expected


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n\nb\nc \xe4\n\n\0d\n")
    for text_documents, before, where, after in (
        ("line", ["a", "", "b"], ", line 4", ["", "\0d"]),
        ("block", ["a"], ", line 3", ["\0d"]),
        ("file", [], ", line 4", []),
    ):
        records = records_of(source_of(path, text_documents=text_documents))  # type: ignore[arg-type]
        (damaged,) = [record for record in records if isinstance(record, Damage)]
        assert records == [*before, damaged, *after]
        check(damaged, "not UTF-8", f"{path}{where}", f"byte 0xe4 at column 3 {NAME_IT}")


def test_tables(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(),
        3,
        [
            None,
            pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])),
            pa.py_buffer(b"a\xe4b"),
        ],
    )
    path = tmp_path / "a.arrow"
    batch = pa.record_batch([bad, pa.array([1, None, 3])], names=["text", "id"])
    with pa.ipc.new_stream(str(path), batch.schema) as stream:
        stream.write_batch(batch)
    first, damaged, last = records_of(source_of(path))
    assert (first, last) == ("a", "b")
    check(damaged, "not UTF-8", f"{path}, row 2", "byte 0xe4 at column 1")
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, None], "list": [["a"], []]}), parquet)
    first, second = records_of(source_of(parquet, fields=("id",)))
    check(first, "text is not a string", f"{parquet}, row 1", "must be a string, not int64")
    check(second, "text is not a string", f"{parquet}, row 2", "not null")
    first, second = records_of(source_of(parquet, fields=("text", "body")))
    check(second, "no text field", f"{parquet}, row 2", "no field 'text', 'body'")
    assert "its fields are 'id', 'list'" in first.detail  # type: ignore[union-attr]
    first, second = records_of(source_of(parquet, fields=("list",)))
    check(second, "text is not a string", f"{parquet}, row 2", "not list<")


def test_an_error_of_the_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_chunks(file: BinaryIO, path: Path) -> Iterator[bytes]:
        yield GOOD + GOOD[:5]
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(raw_pieces, "read_chunks", read_chunks)
    path = tmp_path / "a.jsonl"
    path.touch()
    with pytest.raises(OSError, match=r"Input/output error.*a\.jsonl"):
        records_of(source_of(path))


def test_a_file_that_may_not_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "folder.jsonl"
    path.mkdir()
    with pytest.raises(OSError, match=r"Is a directory.*folder\.jsonl"):
        records_of(source_of(path))


def test_a_full_disk_is_not_taken_for_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(gzip.compress(parquet(["a"])))
    told = r"cannot hold a decompressed copy.*No space left.*TMPDIR"
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering: full)
        with pytest.raises(DataError, match=told):
            records_of(source_of(path))


def test_a_table_that_has_lost_rows_since_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(["a"]))
    segment = Segment(0, (Stretch(str(path), 0, 5),), 100)
    first, second = next(read_parts(segment, source_of(path), 1 << 20)).pieces
    assert (first.format, second.format) == ("table", "damage")


def test_unquoted_rows(tmp_path: Path) -> None:
    """GLUE's files have quotes that mean nothing."""
    path = tmp_path / "a.tsv"
    path.write_bytes(b'id\ttext\n1\t"one\n2\ttwo" and\n3\tthree\n')
    damaged, good = records_of(source_of(path))
    check(damaged, "broken row", f"{path}, line 2", "use --quoting none")
    assert good == "three"
    source = dataclasses.replace(source_of(path), quoting="none")
    assert records_of(source) == ['"one', 'two" and', "three"]


def test_a_json_array_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"text": "a"},\n{"text": "b"}]\n')
    first, second = records_of(source_of(path))
    check(first, "broken JSON", f"{path}, line 1", "jq -c '.[]'")
    check(second, "broken JSON", f"{path}, line 2", "Extra data")
