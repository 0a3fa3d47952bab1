"""Which files are read, and that mistakes in naming them are told."""

import json
import os
from pathlib import Path

import datasets
import pytest
from input_files import json_lines, parquet, rows, source_of

from data_prep.errors import DataError, UsageError
from data_prep.inputs.fields import check_fields
from data_prep.inputs.passed_over import PassedOver, printable, seem_no_documents
from data_prep.inputs.sources import find_files, plain_source


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path, *names: str) -> list[str]:
    return [str(path.relative_to(root)) for path in find_files([str(root / name) for name in names])]


def test_inputs_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.jsonl.gz", "b/1.txt", "b/c/0.JSON.ZST", "b/c.csv", "b/x.pdf", "b/.hidden/x.txt")
    touch(tmp_path, "a.txt", "b/.x.txt")
    in_b = ["b/1.txt", "b/2.jsonl.gz", "b/c/0.JSON.ZST", "b/c.csv"]
    assert found(tmp_path, "b") == in_b
    assert found(tmp_path, "b", "a.txt", "b/1.txt") == [*in_b, "a.txt"]
    assert found(tmp_path, "b/*.txt", "a.txt") == ["b/1.txt", "a.txt"]
    assert found(tmp_path, "**/*.txt") == ["a.txt", "b/1.txt"]


def told_of(*inputs: Path | str) -> list[str]:
    passed_over = PassedOver()
    find_files(map(str, inputs), passed_over)
    return passed_over.told()


def test_files_that_are_passed_over_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.txt", "a/b/wiki_00", "a/b/wiki_01", "a/story.text", "a/more.jsonl.gzip", "a/.git/x")
    touch(tmp_path, "c/1.txt", "c/.hidden", "d/1.txt", "d/LICENSE", "d/caf\udce9")
    a, d = tmp_path / "a", tmp_path / "d"
    why = "because the endings are unknown"
    advice = "give what is to be read another one, for example .txt or .jsonl (--help lists them)"
    assert told_of(a, tmp_path / "c", d, a / "1.txt", d) == [
        f"not read: 4 files of {a}, {why}: b/wiki_00, b/wiki_01, more.jsonl.gzip and 1 more; {advice}",
        f"not read: 2 files of {d}, {why}: LICENSE, caf\\xe9; {advice}",
    ]
    assert told_of(tmp_path / "c", a / "1.txt", f"{a}/*.txt") == []


def test_links_to_nothing_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.txt")
    (tmp_path / "a/2.txt").symlink_to(".git/annex/objects/key")
    os.mkfifo(tmp_path / "a/pipe.txt")
    told = "because they are links to nothing, or no files: "
    (line,) = told_of(tmp_path / "a")
    assert line.startswith(f"not read: 2 files of {tmp_path / 'a'}, {told}2.txt, pipe.txt;")
    (line,) = told_of(f"{tmp_path}/a/[12].txt")
    assert line.startswith(f"not read: 1 file of {tmp_path}/a/[12].txt, {told}{tmp_path}/a/2.txt;")


def test_text_beside_a_corpus_is_recognized() -> None:
    names = ["a/README.txt", "a/LICENCE.TXT", "b/labels.txt", "b/1.txt", "b/my_labels.txt", "vocab.jsonl"]
    files = tuple(map(Path, names))
    assert seem_no_documents(files) == list(files[:3])
    assert seem_no_documents(files[:1]) == []


def test_names_are_shown_on_one_line() -> None:
    assert printable("a b/\u65e5\x1b[31m\n\udce9.txt") == "a b/\u65e5\\x1b[31m\\n\\xe9.txt"


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.txt", "in/caf\udce9.txt")
    for name in ("in", "in/*.txt"):
        with pytest.raises(DataError, match=r"in/caf\\xe9\.txt: the name is not UTF-8.*; rename it"):
            found(tmp_path, name)


def test_one_file_spelt_in_two_ways_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.txt")
    monkeypatch.chdir(tmp_path)
    assert find_files(["a.txt", str(tmp_path / "a.txt"), "./a.txt"]) == [Path("a.txt")]


def test_a_link_back_up_does_not_turn_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/1.txt")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/there").symlink_to(tmp_path / "a/b/1.txt")
    assert found(tmp_path, "a") == ["a/b/1.txt"]


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "a.pdf")
    os.mkfifo(tmp_path / "pipe.txt")
    for name, told in (
        ("gone.txt", r"gone\.txt: no such file or directory"),
        ("empty", r"empty: this directory holds no file with one of the endings \.txt, .*\.parquet"),
        ("x*.txt", r"x\*\.txt: no file matches"),
        ("@gone", r"gone: cannot read this list"),
    ):
        with pytest.raises(DataError, match=told):
            find_files([f"@{tmp_path / name[1:]}" if name.startswith("@") else str(tmp_path / name)])
    for name in ("a.pdf", "*.pdf"):
        with pytest.raises(UsageError, match=r"a\.pdf.* cannot tell its format.*expected \.txt"):
            find_files([str(tmp_path / name)])
    with pytest.raises(UsageError, match=r"pipe\.txt: not a regular file"):
        find_files([str(tmp_path / "pipe.txt")])


def test_a_list_of_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "b/1.txt", "b/2.txt", "a b.txt")
    monkeypatch.chdir(tmp_path)
    Path("list").write_bytes(b"\xef\xbb\xbf# mine\r\n\r\na b.txt\r\n  b/*.txt\n")
    assert find_files(["b/2.txt", "@list"]) == [Path("b/2.txt"), Path("a b.txt"), Path("b/1.txt")]
    for content, told in (
        ("a b.txt\ngone.txt\n", r"list, line 2: gone\.txt: no such file"),
        ("# nothing\n", r"list: this list holds no input"),
    ):
        Path("list").write_text(content)
        with pytest.raises(DataError, match=told):
            find_files(["@list"])
    Path("list").write_text("@list\n")
    with pytest.raises(UsageError, match=r"line 1: @list: a list cannot name another list"):
        find_files(["@list"])
    Path("list").write_bytes(b"\xe4\n")
    with pytest.raises(DataError, match="must be UTF-8"):
        find_files(["@list"])


def test_saved_datasets(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_dict({"text": ["a", "b", "c"]})
    dataset.save_to_disk(tmp_path / "in/saved", num_shards=2)
    touch(tmp_path, "in/z.txt", "in/saved/cache-1.arrow")
    shards = [f"in/saved/data-0000{shard}-of-00002.arrow" for shard in (0, 1)]
    assert found(tmp_path, "in") == [*shards, "in/z.txt"]
    assert found(tmp_path, "in/saved") == shards
    datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "in/both")
    for name in ("in", "in/both"):
        with pytest.raises(DataError, match=r"both: this is a DatasetDict.*name the one.*in/both/train"):
            found(tmp_path, name)
    state = tmp_path / "in/saved/state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(DataError, match=r"saved: this dataset has an indices mapping.*flatten_indices\(\)"):
        found(tmp_path, "in/saved")
    for broken, told in (
        ("{", r"state\.json: cannot be read"),
        ("[]", r"state\.json: expected a JSON object"),
        ("{}", r"state\.json: does not name its files"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', r"gone\.arrow: missing, but named in"),
    ):
        state.write_text(broken)
        with pytest.raises(DataError, match=told):
            found(tmp_path, "in/saved")


def test_the_source_of_a_plain_command_line(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt")
    source = plain_source(find_files([str(tmp_path)]), ["title", "body", "title"], "line")
    assert (source.name, source.repeat, source.text_documents) == ("corpus", 1.0, "line")
    assert (source.files, source.text_fields) == ((tmp_path / "a.txt",), ("title", "body"))


def test_a_field_that_no_record_has_is_told_at_once(tmp_path: Path) -> None:
    contents = {"a.jsonl": json_lines(["a"]), "a.csv": rows(["a"]), "a.parquet": parquet(["a"])}
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        check_fields([source_of(path)])
        told = rf"{name}: no field 'body'; its fields are 'id', 'text'(?s:.*)--text-field"
        with pytest.raises(DataError, match=told):
            check_fields([source_of(path), source_of(path, fields=("text", "body"))])


def test_the_look_at_fields_takes_no_notice_of_anything_else(tmp_path: Path) -> None:
    contents = {
        "a.txt": b"a",
        "empty.jsonl": b"\n",
        "array.jsonl": b'[\n{"x": ["body"]},\n',
        "broken.parquet": b"PAR1",
        "late.jsonl": b'{"id": 1}\n{broken\n{"text": "a"}\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        check_fields([source_of(tmp_path / name)])
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"id": 1}\n')
    with pytest.raises(DataError, match=r"wrong\.jsonl: no field 'text'"):
        check_fields([source_of(*(tmp_path / name for name in list(contents)[:4]), wrong)])


def test_every_file_without_the_field_is_counted(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.csv").write_text("Hello there;1,2\nSo long;3,4\n" if number else "text\na\n")
    with pytest.raises(DataError) as error:
        check_fields([source_of(*sorted(tmp_path.iterdir()))])
    told = str(error.value)
    assert "1.csv: no field 'text'; its fields are 'Hello there;1', '2'" in told
    assert "if these are no names, the file has no header line" in told
    assert "and 1 more of 5 files" in told
    (tmp_path / "1.csv").write_text("id;text\n1;a\n")
    with pytest.raises(DataError, match="seem to be separated by ';'"):
        check_fields([source_of(tmp_path / "1.csv")])
