"""However a file is cut into segments and parts, every record is read once, in order, at its place."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from input_files import COMPRESS, FORMATS, Record, parts_of, records_of, source_of

from data_prep.inputs import parts as parts_module
from data_prep.inputs.borders import Blocks, Borders, Lines, Rows
from data_prep.inputs.damage import Damage
from data_prep.inputs.window import Window, cut_records

LINES = st.lists(
    st.tuples(
        st.sampled_from([b"", b"", b" ", b"\t \r", b"a", b"bb bb", b"c" * 30, b"\xff", b"\r", b" d "]),
        st.sampled_from([b"\n", b"\n", b"\r\n"]),
    ),
    max_size=30,
)
FIELDS = st.text(st.sampled_from('ab,\t"\n\r \u00fc'), max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuts")


@settings(max_examples=300, deadline=None)
@given(lines=LINES, ended=st.booleans(), segment_bytes=st.integers(1, 60), part_bytes=st.integers(1, 60))
def test_lines_and_blocks(
    folder: Path, lines: list[tuple[bytes, bytes]], ended: bool, segment_bytes: int, part_bytes: int
) -> None:
    content = b"".join(line + line_end for line, line_end in lines)
    content = content if ended else content.removesuffix(b"\n")
    path = folder / "a.txt"
    path.write_bytes(content)
    for source, expected in (
        (source_of(path, text_documents="line"), expected_lines(content)),
        (source_of(path, text_documents="block"), expected_blocks(content)),
    ):
        for sizes in ((segment_bytes, part_bytes), (1 << 20, part_bytes), (segment_bytes, 1 << 20)):
            assert [placed(record, content) for record in records_of(source, *sizes)] == expected
        pieces = [p for parts in parts_of(source, segment_bytes, part_bytes) for t in parts for p in t.pieces]
        assert b"".join(piece.data for piece in pieces) == content
        for piece in pieces:
            assert content.startswith(piece.data, piece.offset)
            assert piece.first in (0, content.count(b"\n", 0, piece.offset) + 1)


def placed(record: Record, content: bytes) -> str | int:
    """A text, or the line a damage is said to be in."""
    if isinstance(record, str):
        return record
    assert record.reason == "not UTF-8"
    kind, number = record.where.split()[-2:]
    return int(number) if kind == "line" else content.count(b"\n", 0, int(number)) + 1


def expected_lines(content: bytes) -> list[str | int]:
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [text_or_line([line], number) for number, line in enumerate(lines, start=1)]


def expected_blocks(content: bytes) -> list[str | int]:
    blocks: list[tuple[int, list[bytes]]] = []
    within = False
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip() and not within:
            blocks.append((number, []))
        within = bool(line.strip())
        if within:
            blocks[-1][1].append(line)
    return [text_or_line(lines, number) for number, lines in blocks]


def text_or_line(lines: list[bytes], number: int) -> str | int:
    joined = b"\n".join(line.removesuffix(b"\r") for line in lines)
    return number if b"\xff" in joined else joined.decode()


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(
        st.sampled_from(['{"text": "a"}', '{"text": "\u00fc\\n"}', "", " ", "{", "[1]"]), max_size=30
    ),
    segment_bytes=st.integers(1, 60),
    part_bytes=st.integers(1, 60),
)
def test_json_lines(folder: Path, lines: list[str], segment_bytes: int, part_bytes: int) -> None:
    path = folder / "a.jsonl"
    content = "\n".join(lines).encode()
    path.write_bytes(content)
    expected: list[str | int] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            expected.append(json.loads(line)["text"] if line.startswith('{"') else number)
    for sizes in ((segment_bytes, part_bytes), (1 << 20, part_bytes), (segment_bytes, 1 << 20)):
        found = []
        for record in records_of(source_of(path), *sizes):
            reason = record.reason if isinstance(record, Damage) else ""
            assert reason in ("", "broken JSON")
            found.append(placed(record._replace(reason="not UTF-8") if reason else record, content))
        assert found == expected


@settings(max_examples=300, deadline=None)
@given(
    table=st.lists(st.tuples(FIELDS, FIELDS), max_size=12),
    ending=st.sampled_from([".csv", ".tsv"]),
    # With other line ends, the writer leaves a carriage return without the quotes it needs.
    style=st.sampled_from([(csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_MINIMAL, "\r\n")]),
    part_bytes=st.integers(1, 60),
)
def test_rows(
    folder: Path, table: list[tuple[str, str]], ending: str, style: tuple[int, str], part_bytes: int
) -> None:
    if ending == ".tsv":  # where tabs and line ends in one field are taken for a stray quote
        table = [(first.replace("\t", ""), text.replace("\t", "")) for first, text in table]
    out = io.StringIO()
    delimiter = "," if ending == ".csv" else "\t"
    writer = csv.writer(out, delimiter=delimiter, quoting=style[0], lineterminator=style[1])
    writer.writerow(["id", "text"])
    writer.writerows(table)
    path = folder / f"a{ending}"
    path.write_bytes(out.getvalue().encode())
    assert records_of(source_of(path), part_bytes=part_bytes) == [text for _, text in table]


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from('ab,"\n'), max_size=40), part_bytes=st.integers(1, 40))
def test_rows_as_the_csv_module_reads_them(folder: Path, text: str, part_bytes: int) -> None:
    path = folder / "b.csv"
    path.write_text(f"id,text\n{text}", newline="")
    reader = csv.reader(io.StringIO(text, newline=""), strict=False)
    expected: list[str | None] = []
    for row in reader:
        if row:
            expected.append(row[1] if len(row) == 2 else None)
    found = records_of(source_of(path), part_bytes=part_bytes)
    if any("never closed" in record.detail for record in found if isinstance(record, Damage)):
        return  # where the csv module makes one row of the rest of the file
    assert [record if isinstance(record, str) else None for record in found] == expected


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(max_size=80).map(
        lambda data: re.sub(rb"[^\n ,]", lambda m: b'ab"'[m[0][0] % 3 :][:1], data)
    ),
    chunk_bytes=st.integers(1, 20),
    target_bytes=st.integers(1, 30),
    max_record_bytes=st.integers(1, 30),
    borders=st.sampled_from([Lines(), Blocks(), Rows(",")]),
)
def test_cuts_do_not_depend_on_the_chunks(
    content: bytes, chunk_bytes: int, target_bytes: int, max_record_bytes: int, borders: Borders
) -> None:
    def cuts(size: int) -> list:
        chunks = (content[start : start + size] for start in range(0, len(content), size))
        return list(cut_records(Window(chunks, ()), borders, target_bytes, max_record_bytes))

    whole = cuts(1000)
    assert cuts(chunk_bytes) == whole
    assert [cut.offset for cut in whole] == sorted({cut.offset for cut in whole})
    for cut, end in zip(whole, [*(cut.offset for cut in whole[1:]), len(content)]):
        assert (cut.data is None) == (end - cut.offset > max_record_bytes)
        assert cut.data in (None, content[cut.offset : end])
        assert cut.data is not None or cut.line_feeds == content.count(b"\n", cut.offset, end)


@pytest.mark.parametrize("compression", ["", ".gz"])
def test_records_that_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    monkeypatch.setattr(parts_module, "MAX_RECORD_BYTES", 1000)
    large = b"x" * 989
    contents: dict[str, tuple[bytes, str]] = {
        "a.jsonl": (b'{"text":"a"}\n{"text":"%b"}\n{"text":"b"}\n' % large, "line 2"),
        "b.csv": (b'text\na\n"%b\n\n\n%b"\nb\n' % (large, large), "line 3"),
        "c.txt": (b"a\n\n%b\n%b\n\nb\n" % (large, large), "line 3"),
    }
    for name, (content, line) in contents.items():
        path = tmp_path / f"{name}{compression}"
        path.write_bytes(COMPRESS[compression](content))
        for part_bytes in (1, 100, 1 << 20):
            source = source_of(path, text_documents="block")
            first, record, last = records_of(source, part_bytes=part_bytes)
            assert (first, last) == ("a", "b")
            assert isinstance(record, Damage)
            assert (record.reason, record.where) == ("record too large", f"{path}, {line}")
    # One byte less is a record; the lines behind a large one are still counted.
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text":"%b"}\n{"text":"%b"}\n{\n' % (large[:-1], large))
    fits, record, broken = records_of(source_of(path))
    assert fits == large[:-1].decode()
    assert isinstance(record, Damage)
    assert isinstance(broken, Damage)
    assert (record.where, broken.where) == (f"{path}, line 2", f"{path}, line 3")
    path = tmp_path / f"e.txt{compression}"
    path.write_bytes(COMPRESS[compression](large * 2))
    (record,) = records_of(source_of(path, text_documents="file"))
    assert isinstance(record, Damage)
    assert (record.reason, record.where) == ("record too large", str(path))
    assert "--text-documents" in record.detail


@pytest.mark.parametrize("form", ["parquet", "arrow stream"])
def test_rows_of_a_table_that_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(parts_module, "MAX_RECORD_BYTES", 1000)
    ending, content = FORMATS[form]
    path = tmp_path / f"a{ending}"
    path.write_bytes(content(["a", "x" * 1001, "x" * 1001, "b", "c" * 999, "x" * 1001]))
    for part_bytes in (1, 1 << 20):
        found = records_of(source_of(path), part_bytes=part_bytes)
        places = [record.where if isinstance(record, Damage) else record[0] for record in found]
        assert places == ["a", f"{path}, row 2", f"{path}, row 3", "b", "c", f"{path}, row 6"]
