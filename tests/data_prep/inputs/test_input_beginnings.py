"""Text that would pass as UTF-8 and is none, line ends that are none, and files that stand for others."""

import dataclasses
import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from input_files import COMPRESS, records_of, rows, source_of

from data_prep.inputs.damage import Damage
from data_prep.inputs.fields import check_fields

# A line of each script, three of them in the lines that follow one another in a file.
LINES = {
    "latin": "The quick brown fox jumps over the lazy dog.",
    "yoruba": "G\u1eb9\u0301g\u1eb9\u0301 b\u00ed \u00ecw\u00e9 y\u00ec\u00ed \u1e63e s\u1ecd",
    "greek": "\u039e\u03b5\u03c3\u03ba\u03b5\u03c0\u03ac\u03b6\u03c9 \u03c4\u03b7\u03bd \u03c8\u03c5\u03c7",
    "cyrillic": "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440! \u041a\u0430\u043a \u0442\u044b?",
    "arabic": "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645 \u0648\u0631\u062d",
    "hindi": "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "thai": "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01\u0e17\u0e38\u0e01",
    "chinese": "\u4e2d\u6587\u7684\u4e00\u4e2a\u53e5\u5b50\uff0c\u4e0d\u957f\u3002",
    "japanese": "\u3053\u308c\u306f\u65e5\u672c\u8a9e\u306e\u6587\u3067\u3059\u3002",
}
ESCAPES = {
    "iso2022_jp": ("\u65e5\u672c", "if all of the file is, read it with --encoding iso2022_jp"),
    "iso2022_jp_2": ("\u4e2d\u6587 \ud55c", "--encoding iso2022_jp"),
    "iso2022_jp_ext": ("\uff76\uff85", "--encoding iso2022_jp_ext"),
}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("script", LINES)
def test_utf16_and_utf32_without_a_mark(tmp_path: Path, script: str, encoding: str) -> None:
    line = LINES[script]
    contents = {
        "a.txt": f"{line}\n" * 3,
        "a.jsonl": f'{{"text": "{line}"}}\n' * 3,
        "a.csv": f"id,text\n1,{line}\n2,{line}\n",
        "a.tsv": f"id\ttext\r\n1\t{line}\r\n2\t{line}\r\n",
        "b.txt.gz": f"{line}\n" * 20_000,
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(COMPRESS[path.suffix if path.suffix == ".gz" else ""](content.encode(encoding)))
        for sizes in ((1 << 30, 1 << 20), (40, 40)):
            check_fields([source_of(path)])
            (damaged,) = records_of(source_of(path), *sizes)
            assert isinstance(damaged, Damage)
            assert (damaged.reason, damaged.where) == ("another encoding", str(path))
            assert f"it seems to be {encoding.upper()}; use --encoding {encoding}," in damaged.detail
        named = source_of(path, encoding=encoding)
        assert set(records_of(named)) == {line}


@settings(max_examples=300, deadline=None)
@given(
    lines=st.lists(
        st.text(st.sampled_from("ab \u00fc\u4e2d\U0001f600\t\0\x1b[31m(B0$;\r"), min_size=2, max_size=30),
        min_size=2,
        max_size=30,
    )
)
def test_strange_text_in_utf8_is_taken_for_what_it_is(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    """Stray NULs and the escape sequences of terminals are text, as before."""
    lines = [re.sub(r"\x1b(?=\$)", "", line).rstrip("\r") for line in lines]
    lines = [line if 3 * line.count("\0") < len(line) else "x" for line in lines]
    path = tmp_path_factory.getbasetemp() / "strange.txt"
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    assert records_of(source_of(path)) == lines


@pytest.mark.parametrize(
    "content",
    [
        "\x1b[31mred\x1b[0m and \x1b(B\x1b[m of a VT100\n\x1b(0lqqk\x1b(B \x0elqqk\x0f\n\x1b]0;title\x07\n",
        "one\0two\0three\0four\n",
        "fixed\0\0\0width\0\0\0",
        "1\n2\n3\n4\n\0\n6\n",
        "\0" * 99,
        "eight b\0" * 99,
        "\n\n\n\n\t\t\n",
        "price: $BIG$ and ~{curly~} +AGE- \n",
    ],
)
def test_no_other_encoding(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode())
    assert records_of(source_of(path)) == content.removesuffix("\n").split("\n")


@pytest.mark.parametrize("encoding", ESCAPES)
def test_iso_2022_costs_the_records_that_are_in_it(tmp_path: Path, encoding: str) -> None:
    word, told = ESCAPES[encoding]
    foreign = word.encode(encoding)
    contents = {
        "a.txt": b"good\n" + foreign + b"\nalso good\n",
        "a.jsonl": b'{"text": "good"}\n{"text": "' + foreign + b'"}\n{"text": "also good"}\n',
        "a.csv": b"text,id\ngood,1\n" + foreign + b",2\nalso good,3\n",
        "a.tsv": b"text\tid\ngood\t1\n" + foreign + b"\t2\nalso good\t3\n",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        first, damaged, last = records_of(source_of(path))
        assert (first, last) == ("good", "also good")
        assert isinstance(damaged, Damage)
        line = 2 if name in ("a.txt", "a.jsonl") else 3
        assert (damaged.reason, damaged.where) == ("another encoding", f"{path}, line {line}")
        assert told in damaged.detail
        assert records_of(source_of(path, encoding=encoding)) == ["good", word, "also good"]
    (damaged,) = records_of(source_of(tmp_path / "a.txt", text_documents="file"))
    assert isinstance(damaged, Damage)
    assert (damaged.reason, damaged.where) == ("another encoding", f"{tmp_path / 'a.txt'}, line 2")


def test_iso_2022_that_python_cannot_decode_or_that_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\x1b$)A\x0eVPND\x0f\n")
    (damaged,) = records_of(source_of(path))
    assert isinstance(damaged, Damage)
    assert "convert the file with 'iconv -f ISO-2022-CN-EXT -t UTF-8'" in damaged.detail
    # Of a Korean file, only the first line tells.
    path.write_bytes("plain\n\ud55c\uad6d\n\uc5b4\n".encode("iso2022_kr"))
    (damaged,) = records_of(source_of(path), 5, 5)
    assert isinstance(damaged, Damage)
    assert (damaged.reason, damaged.where) == ("another encoding", str(path))
    assert records_of(source_of(path, encoding="iso2022_kr")) == ["plain", "\ud55c\uad6d", "\uc5b4"]
    header = tmp_path / "a.csv"
    header.write_bytes("\u6587,text\na,b\n".encode("iso2022_jp"))
    check_fields([source_of(header)])
    (damaged,) = records_of(source_of(header))
    assert isinstance(damaged, Damage)
    assert damaged.reason == "another encoding"


def test_iso_2022_inside_a_record(tmp_path: Path) -> None:
    """Somebody read bytes as ASCII and wrote them down as text."""
    text = "\u65e5\u672c".encode("iso2022_jp").decode("ascii")
    lines, table = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    lines.write_text(json.dumps({"text": text}) + "\n")
    pq.write_table(pa.table({"text": [text]}), table)
    for path in (lines, table):
        (damaged,) = records_of(source_of(path))
        assert isinstance(damaged, Damage)
        assert damaged.reason == "another encoding"
        assert "decode it before it is written to the field" in damaged.detail


def test_carriage_returns_alone_are_no_line_ends(tmp_path: Path) -> None:
    contents = {
        "a.txt": b"one\rtwo\r",
        "a.jsonl": b'{"text": "one"}\r{"text": "two"}\r',
        "a.csv": b"id,text\r1,one\r2,two",
        "b.txt.gz": gzip.compress(b"one\r" * 30_000),
        "c.txt": b"one\r" * 30_000 + b"\n",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        check_fields([source_of(path)])
        for sizes in ((1 << 30, 1 << 20), (10, 10)):
            (damaged,) = records_of(source_of(path), *sizes)
            assert isinstance(damaged, Damage)
            assert (damaged.reason, damaged.where) == ("CR line ends", str(path))
            assert r"convert it with tr '\r' '\n' < IN > OUT" in damaged.detail
    path = tmp_path / "d.txt"
    path.write_bytes("one\rtwo\r".encode("utf-16"))
    (damaged,) = records_of(source_of(path, encoding="utf-16"))
    assert isinstance(damaged, Damage)
    assert damaged.reason == "CR line ends"


@pytest.mark.parametrize(
    ("content", "line", "file"),
    [
        (b"one\r", ["one"], "one"),
        (b"one\rtwo\r", None, "one\ntwo"),
        (b"one\rtwo\n", ["one\rtwo"], "one\rtwo"),
        (b"one\r\ntwo\r\n", ["one", "two"], "one\ntwo"),
        (b"one\ntwo\r", ["one", "two"], "one\ntwo\r"),
        (b"one " * 9000 + b"\rtwo\n", ["one " * 9000 + "\rtwo"], "one " * 9000 + "\rtwo"),
    ],
)
def test_carriage_returns_elsewhere(
    tmp_path: Path, content: bytes, line: list[str] | None, file: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert records_of(source_of(path, text_documents="file")) == [file]
    assert line is None or records_of(source_of(path)) == line


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
ANNEX = b"/annex/objects/SHA256E-s11--87428fc5.txt\n"


@pytest.mark.parametrize(
    ("pointer", "told"),
    [
        (LFS, "a pointer of Git LFS, the real file was not fetched: git lfs pull"),
        (ANNEX, "a pointer of git-annex, the real file was not fetched: git annex get"),
    ],
)
@pytest.mark.parametrize(
    "ending", [".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt.gz", ".parquet.zst"]
)
def test_pointers_are_no_documents(tmp_path: Path, pointer: bytes, told: str, ending: str) -> None:
    path, good = tmp_path / f"a{ending}", tmp_path / "b.csv"
    path.write_bytes(pointer)
    good.write_bytes(rows(["good"]))
    check_fields([source_of(path, good)])
    for source in (source_of(path, good), source_of(path, good, text_documents="file")):
        for sizes in ((1 << 30, 1 << 20), (20, 20)):
            damaged, last = records_of(source, *sizes)
            assert last == "good"
            assert isinstance(damaged, Damage)
            assert (damaged.reason, damaged.where, damaged.detail) == ("pointer file", str(path), told)
    assert isinstance(records_of(dataclasses.replace(source, encoding="auto"))[0], Damage)


def test_a_text_about_pointers_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in (b"A pointer:\n" + LFS, LFS + b"More of this in the manual.\n" * 50):
        path.write_bytes(content)
        assert records_of(source_of(path, text_documents="file")) == [content.decode().removesuffix("\n")]
