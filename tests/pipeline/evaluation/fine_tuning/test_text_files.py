import gzip

import pytest

from pipeline.errors import DataError
from pipeline.evaluation.fine_tuning.text_files import read_header, read_lines, read_table, require_file


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def values(*arguments, **options):
    return [(row.line, row.values) for row in read_table(*arguments, **options)]


def test_only_line_feeds_end_lines_and_marks_at_the_beginning_are_left_out(tmp_path):
    text = "one\u2028still one\x85still\rone\ntwo\r\n"
    plain = write(tmp_path / "a.txt", text, "utf-8-sig")
    packed = tmp_path / "a.txt.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    lines = ["one\u2028still one\x85still\rone\n", "two\r\n"]
    assert list(read_lines(plain)) == lines
    assert list(read_lines(packed)) == lines


def test_without_quoting_quotes_are_text(tmp_path):
    path = write(tmp_path / "a.tsv", 'b\ta\n"x\ty\r\n\nz"\t"\n')
    assert read_header(path, "none") == ["b", "a"]
    assert values(path, ["a", "b"], "none") == [(2, ["y", '"x']), (4, ['"', 'z"'])]


def test_with_quoting_a_field_may_hold_line_ends_tabs_and_quotes(tmp_path):
    path = write(tmp_path / "a.tsv", 'a\tb\n1\t"x\ny\t""z"""\n2\tw\n')
    assert values(path, ["b"], "standard") == [(2, ['x\ny\t"z"']), (4, ["w"])]
    long = write(tmp_path / "long.tsv", "a\n" + "x" * 200_000 + "\n")
    assert values(long, ["a"], "standard") == [(2, ["x" * 200_000])]


def test_a_table_without_header_gives_all_its_rows(tmp_path):
    path = write(tmp_path / "a.tsv", "1\tx\n2\ty\n")
    assert values(path, ["n"], "none", header=["n", "s"]) == [(1, ["1"]), (2, ["2"])]


def test_broken_rows_are_named_or_left_out(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tb\n1\t2\n3\n4\t5\t6\n7\t8\n")
    with pytest.raises(DataError, match=r"a\.tsv, line 3: 1 fields; expected 2: a, b"):
        values(path, ["a"], "none")
    assert values(path, ["a"], "none", leave_out_broken=True) == [(2, ["1"]), (5, ["7"])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a line with the names of the columns"),
        (b"a\tc\n1\t2\n", "no column 'b'; it has a, c"),
        ("b\ncafé\n".encode("latin-1"), "is not UTF-8"),
        (b'b\nx\n"y\nz\n', "line 3: unexpected end of data"),
    ],
)
def test_what_cannot_be_read_is_one_message(tmp_path, content, message):
    path = tmp_path / "a.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}.*{message}"):
        values(path, ["b"], "standard")


def test_a_damaged_archive_is_named(tmp_path):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"a\n" + bytes(range(32, 127)) * 100)[:-20])
    with pytest.raises(DataError, match=r"a\.tsv\.gz: cannot be read"):
        values(path, ["a"], "none")
    path.write_bytes(b"not packed")
    with pytest.raises(DataError, match=r"a\.tsv\.gz: cannot be read"):
        values(path, ["a"], "none")


def test_a_file_under_none_of_its_names_is_missed_by_all(tmp_path):
    with pytest.raises(DataError, match=r"no train\.tsv; expected train\.tsv or train\.tsv\.gz there"):
        require_file(tmp_path, ["train.tsv", "train.tsv.gz"])
    (tmp_path / "train.tsv.gz").touch()
    assert require_file(tmp_path, ["train.tsv", "train.tsv.gz"]) == tmp_path / "train.tsv.gz"
