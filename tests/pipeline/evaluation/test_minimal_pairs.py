"""Paradigms on disk, and what is wrong with them."""

import gzip
import json

import pytest

from pipeline.errors import DataError
from pipeline.evaluation.minimal_pairs import read_paradigms


def pair(uid: str, number: int = 0, **fields: object) -> bytes:
    record = {
        "sentence_good": f"Good {number}.",
        "sentence_bad": f"Bad {number}.",
        "linguistics_term": "agreement",
        "field": "syntax",
        "UID": uid,
    }
    merged = {key: value for key, value in (record | fields).items() if value is not ...}
    return json.dumps(merged).encode() + b"\n"


def test_plain_and_compressed_files_are_read_by_name(tmp_path):
    (tmp_path / "b.jsonl").write_bytes(pair("b") + b"\n" + pair("b", 1))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(pair("a", n) for n in range(5))))
    (tmp_path / "README.md").write_text("nothing")

    first, second = read_paradigms(tmp_path, limit=3)

    assert [first.uid, second.uid] == ["a", "b"]
    assert (first.term, first.field) == ("agreement", "syntax")
    assert first.pairs == [(f"Good {n}.", f"Bad {n}.") for n in range(3)]
    assert second.places == [f"{tmp_path / 'b.jsonl'}, line {n}" for n in (1, 3)]
    assert len(read_paradigms(tmp_path, limit=None)[0].pairs) == 5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"sentence_good": \n', "no JSON"),
        (b"\xff\n", "no JSON"),
        (b"[1]\n", "list; write an object with sentence_good"),
        (pair("u", sentence_bad=...), "sentence_bad is missing; write a text"),
        (pair("u", sentence_good=" "), "sentence_good is ' '; write a text"),
        (pair("u", field=None), "field is None; write a text"),
        (pair("other"), "UID is 'other'; the file's name wants 'u'"),
        (
            pair("u", linguistics_term="binding"),
            "linguistics_term is 'binding', on the lines before 'agreement'",
        ),
    ],
)
def test_wrong_line_is_named(tmp_path, line, message):
    (tmp_path / "u.jsonl").write_bytes(pair("u") + line)
    with pytest.raises(DataError) as error:
        read_paradigms(tmp_path, None)
    assert str(error.value).startswith(f"{tmp_path / 'u.jsonl'}, line 2: ")
    assert message in str(error.value)


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"holds no UID\.jsonl"):
        read_paradigms(tmp_path, None)
    compressed = gzip.compress(b"".join(pair("u", number) for number in range(1000)))
    file = tmp_path / "u.jsonl.gz"
    for damaged in (compressed[:-20], b"no gzip", compressed[:40] + b"\0" * 20 + compressed[60:]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"u\.jsonl\.gz.*(cannot be read|no JSON)"):
            read_paradigms(tmp_path, None)
    file.write_bytes(gzip.compress(b"\n"))
    with pytest.raises(DataError, match="holds no pairs"):
        read_paradigms(tmp_path, None)
    file.write_bytes(compressed)
    (tmp_path / "u.jsonl").write_bytes(pair("u"))
    with pytest.raises(DataError, match=r"paradigm 'u' is in .* twice"):
        read_paradigms(tmp_path, None)


def test_blimp_itself(shared_data):
    paradigms = read_paradigms(shared_data("blimp"), None)
    assert len(paradigms) == 36
    assert {len(paradigm.pairs) for paradigm in paradigms} == {1000}
    assert len({paradigm.term for paradigm in paradigms}) == 13
    # Published as they are; ties, whatever the model.
    assert sum(good == bad for paradigm in paradigms for good, bad in paradigm.pairs) == 7
