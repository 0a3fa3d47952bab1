"""Files in other encodings than UTF-8: read as they are named, and never with characters replaced."""

import gzip
import json
import re
from contextlib import suppress
from dataclasses import replace
from encodings.aliases import aliases
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from input_files import COMPRESS, Record, parts_of, records_of, rows, source_of

from data_prep.errors import DataError
from data_prep.inputs import compression
from data_prep.inputs.damage import Damage, DamagedFile
from data_prep.inputs.encodings import decoded, shows_borders, text_encoding
from data_prep.inputs.fields import check_fields
from data_prep.inputs.guesses import guessed_encodings
from data_prep.inputs.segments import cut_segments
from data_prep.inputs.sources import TextDocuments

JAPANESE, CYRILLIC, LATIN = (
    "\u65e5\u672c\u8a9e\u3042\u30a2",
    "\u043f\u0440\u0438\u0432\u0435\u0442",
    "\u00e9\u00fc\u00f1",
)
SHOWING = {
    "shift_jis": JAPANESE,
    "gb18030": JAPANESE,
    "euc_jp": JAPANESE,
    "koi8-r": CYRILLIC,
    "cp1252": LATIN,
}
HIDING = {
    "utf-16-le": JAPANESE + "\u0a00\u0a0a\u0a22\u2c2c\U0001f600",  # bytes that look like borders
    "utf-16-be": JAPANESE + "\u0a00\u0a0a\u0a22\u2c2c\U0001f600",
    "utf-32-le": JAPANESE + "\U00010a0a",
    "iso2022_jp": JAPANESE,
    "iso2022_kr": "\ud55c\uad6d\uc5b4",
    "utf-7": CYRILLIC + "+-",
    "cp037": LATIN,
}
ENCODINGS = SHOWING | HIDING


# All letters of the alphabet, from which its encoding can be told.
RUSSIAN = (
    "\u0421\u044a\u0435\u0448\u044c \u0436\u0435 \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 \u043c"
    "\u044f\u0433\u043a\u0438\u0445 \u0444\u0440\u0430\u043d\u0446\u0443\u0437\u0441\u043a\u0438"
    "\u0445 \u0431\u0443\u043b\u043e\u043a, \u0434\u0430 \u0432\u044b\u043f\u0435\u0439 \u0447\u0430"
    "\u044e."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encodings")


def texts_in(encoding: str, more: str = "") -> st.SearchStrategy[str]:
    return st.text(st.sampled_from('ab ,"' + ENCODINGS[encoding] + more), max_size=12)


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_encoding_of_a_file_does_not_show(folder: Path, encoding: str, data: st.DataObject) -> None:
    """A file gives the records of the same file in UTF-8, however both are cut."""
    texts = data.draw(st.lists(texts_in(encoding, "\n"), max_size=12))
    segment_bytes, part_bytes = data.draw(st.integers(1, 80)), data.draw(st.integers(1, 80))
    contents: list[tuple[str, str, TextDocuments]] = [
        (".txt", "\n".join(texts), "line"),
        (".txt", "\n\n".join(texts), "block"),
        (".txt", "\n".join(texts), "file"),
        (".jsonl", "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "line"),
        (".csv", rows(texts).decode(), "line"),
    ]
    for ending, content, text_documents in contents:
        plain, coded = folder / f"plain{ending}", folder / f"coded{ending}"
        plain.write_bytes(content.encode())
        coded.write_bytes(content.encode(encoding))
        expected = records_of(source_of(plain, text_documents=text_documents))
        source = source_of(coded, text_documents=text_documents, encoding=encoding)
        for sizes in ((1 << 30, 1 << 20), (segment_bytes, part_bytes), (segment_bytes, 1 << 20)):
            assert [unplaced(record) for record in records_of(source, *sizes)] == [
                unplaced(record) for record in expected
            ]


def unplaced(record: Record) -> Record:
    return record._replace(where="") if isinstance(record, Damage) else record


@pytest.mark.parametrize("encoding", HIDING)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_where_a_stream_stops_decoding_does_not_depend_on_its_chunks(
    encoding: str, data: st.DataObject
) -> None:
    """Damage is told at one place, and what comes before it is kept."""
    content = bytearray(data.draw(texts_in(encoding, "\n")).encode(encoding))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(content)))
        content[at:at] = data.draw(st.sampled_from([b"\xff", b"\xd8", b"\x00", b"\x1b", b"\xdc\xdc\xdc"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    chunks = [bytes(content[start:end]) for start, end in pairwise([0, *cuts, len(content)])]

    def outcome(pieces: list[bytes]) -> tuple[bytes, str, int]:
        read = b""
        try:
            for piece in decoded(iter(pieces), encoding):
                read += piece
        except DamagedFile as error:
            return read, str(error), error.line
        return read, "", 0

    whole = outcome([bytes(content)])
    assert outcome(chunks) == whole
    assert outcome([content[at : at + 1] for at in range(len(content))]) == whole
    assert whole[1] or whole[0] == bytes(content).decode(encoding).encode()


@pytest.mark.parametrize("compression_ending", ["", ".gz"])
def test_undecodable_bytes_of_a_stream_end_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression_ending: str
) -> None:
    monkeypatch.setattr(compression, "CHUNK_BYTES", 7)
    lines = "".join(f"line {number}\n" for number in range(5)).encode("utf-16")
    path, good = tmp_path / f"a.txt{compression_ending}", tmp_path / "b.txt"
    path.write_bytes(COMPRESS[compression_ending](lines + b"\x00\xdc" + "more\n".encode("utf-16-le")))
    good.write_bytes("good\n".encode("utf-16-be"))
    source = source_of(path, encoding="utf-16")
    for part_bytes in (1, 20, 1 << 20):
        *texts, last = records_of(source, part_bytes=part_bytes)
        assert texts == [f"line {number}" for number in range(5)]
        assert isinstance(last, Damage)
        assert (last.reason, last.where) == ("not decodable", f"{path}, line 6")
        assert last.detail == "byte 0xdc at 73 is not utf-16-le; the rest of the file is left out"
    path.write_bytes(COMPRESS[compression_ending](lines[:-1]))
    *texts, last = records_of(source)
    assert texts == [f"line {number}" for number in range(4)]
    assert isinstance(last, Damage)
    assert "its end, within a character, is not utf-16-le" in last.detail


def test_undecodable_bytes_between_borders_cost_one_record(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9\nno \x81 byte\n\x80\n")
    for sizes in ((1 << 30, 1 << 20), (5, 5)):
        first, damaged, last = records_of(source_of(path, encoding="cp1252"), *sizes)
        assert (first, last) == ("caf\u00e9", "\u20ac")
        assert isinstance(damaged, Damage)
        assert (damaged.reason, damaged.detail) == ("not decodable", "byte 0x81 at column 4 is not cp1252")
    table = tmp_path / "a.csv"
    table.write_bytes(b"id,te\x81t\n")
    (damaged,) = records_of(source_of(table, encoding="cp1252"))
    assert isinstance(damaged, Damage)
    assert "in its header line, byte 0x81 at column 6 is not cp1252" in damaged.detail


def test_only_files_whose_encoding_shows_line_ends_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"line\n" * 100)
    counts = {
        name: len(cut_segments([source_of(path, encoding=name)], 50))
        for name in ("utf-8", "cp1252", "shift_jis", "auto", "utf-16", "iso2022_jp", "hz", "utf-7", "cp037")
    }
    assert counts == dict.fromkeys(counts, 1) | dict.fromkeys(("utf-8", "cp1252", "shift_jis"), 10)


def test_which_encodings_show_borders() -> None:
    assert all(map(shows_borders, ["utf-8", "ascii", "big5", "cp949", *SHOWING]))
    assert not any(map(shows_borders, ["utf-16", "utf-32", "hz", "iso2022_jp_2", "cp500", *HIDING]))


def test_no_character_of_an_encoding_that_shows_borders_has_one_within() -> None:
    named = set()
    for name in set(aliases.values()):
        with suppress(ValueError):
            named.add(text_encoding(name))
    showing = list(filter(shows_borders, named))
    assert len(showing) > 50
    for encoding, lead, border in product(showing, range(128, 256), b'\n\r\t\v\f ,"'):
        with suppress(UnicodeError):
            assert bytes([lead, border]).decode(encoding).endswith(chr(border)), encoding


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("UTF8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("Latin1", "iso8859-1"),
        ("utf_16_le", "utf-16-le"),
        ("auto", "auto"),
        *(
            (name, None)
            for name in ("base64", "rot13", "idna", "unicode_escape", "latin-99", "", "\0", "\u00e9")
        ),
    ],
)
def test_names_of_encodings(name: str, codec: str | None) -> None:
    if codec is None:
        with pytest.raises(ValueError, match="is not the encoding of a text file; expected one that Python"):
            text_encoding(name)
    else:
        assert text_encoding(name) == codec


def test_a_mark_is_no_text_and_tells_the_order(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for written, asked in (
        ("utf-16-le", "utf-16"),
        ("utf-16-be", "utf-16"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32-be", "utf-32"),
        ("utf-32-le", "auto"),
        ("utf-8", "auto"),
        ("utf-8", "utf-8"),
    ):
        path.write_bytes("\ufefftext\na\n".encode(written))
        assert records_of(source_of(path, encoding=asked)) == ["a"]
    path.write_bytes(b"")
    (damaged,) = records_of(source_of(path, encoding="utf-16"))
    assert isinstance(damaged, Damage)
    assert "no header line" in damaged.detail


@pytest.mark.parametrize(
    ("content", "asked", "told"),
    [
        (
            "\ufeffa\n".encode("utf-16-le"),
            "utf-8",
            "a mark: it is UTF-16; use --encoding utf-16, or convert it",
        ),
        ("\ufeffa\n".encode("utf-16-be"), "utf-16-le", "use --encoding utf-16,"),
        ("\ufeffa\n".encode("utf-16-le"), "cp1252", "use --encoding utf-16,"),
        ("\ufeffa\n".encode("utf-32-le"), "utf-16", "use --encoding utf-32,"),
        ("\ufeffa\n".encode(), "cp1252", "it is UTF-8; use --encoding utf-8"),
        ("hello\n".encode("utf-16-be"), "utf-16", "no byte order mark.*utf-16-le or utf-16-be"),
        ("hello\n".encode("utf-16-be"), "utf-16-le", "seems to be UTF-16-BE; use --encoding utf-16-be"),
        ("hello\n".encode("utf-16-le"), "latin-1", "seems to be UTF-16-LE; use --encoding utf-16-le"),
        ("\ud55c\uad6d\uc5b4\n".encode("iso2022_kr"), "iso2022_jp", "seems to be ISO-2022-KR"),
        (bytes(range(256)) * 4, "auto", "cannot be guessed; name it with --encoding"),
        (
            "El ni\u00f1o comi\u00f3 pi\u00f1as en el jard\u00edn.\n".encode("cp1252") * 9,
            "auto",
            "can be .*cp1252.* or another one; name it with --encoding",
        ),
        (b"\x1b$)A\x0eVPND\x0f\n", "auto", "iconv -f ISO-2022-CN-EXT -t UTF-8"),
    ],
)
def test_an_encoding_that_is_evidently_not_the_one_named(
    tmp_path: Path, content: bytes, asked: str, told: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    for text_documents in ("line", "file"):
        source = source_of(path, text_documents=text_documents, encoding=text_encoding(asked))  # type: ignore[arg-type]
        (damaged,) = records_of(source)
        assert isinstance(damaged, Damage)
        assert (damaged.reason, damaged.where) == ("another encoding", str(path))
        assert re.search(told, damaged.detail)


def test_encodings_that_are_guessed(tmp_path: Path) -> None:
    words = f"{RUSSIAN}\n" * 500
    japanese = "\u3053\u308c\u306f\u65e5\u672c\u8a9e\u306e\u6587\u3067\u3059\u3002\n" * 5000
    contents = {
        "ascii.txt": (b"plain\n" * 3, "plain"),
        "utf8.txt": (words.encode(), words.split("\n")[0]),
        "koi8.txt": (words.encode("koi8-r"), words.split("\n")[0]),
        "utf16.txt": (words.encode("utf-16-be"), words.split("\n")[0]),
        "sjis.txt": (japanese.encode("shift_jis"), japanese.split("\n")[0]),
        "jis.txt.gz": (gzip.compress(japanese.encode("iso2022_jp")), japanese.split("\n")[0]),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    source = source_of(*(tmp_path / name for name in contents), encoding="auto")
    for name, (_, line) in contents.items():
        assert set(records_of(replace(source, files=(tmp_path / name,)))) == {line}
    assert {
        encoding: [path.name for path in files] for encoding, files in guessed_encodings(source).items()
    } == {
        "koi8-r": ["koi8.txt"],
        "utf-16-be": ["utf16.txt"],
        "cp932": ["sjis.txt"],
        "iso2022_jp": ["jis.txt.gz"],
    }
    assert guessed_encodings(replace(source, encoding="utf-8")) == {}


def test_fields_are_looked_at_in_the_encoding_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for encoding in ("utf-16", "shift_jis"):
        path.write_bytes(json.dumps({"\u6587": "a"}, ensure_ascii=False).encode(encoding))
        source = source_of(path, fields=("\u6587",), encoding=encoding)
        check_fields([source])
        with pytest.raises(DataError, match="no field 'text'; its fields are '\u6587'"):
            check_fields([replace(source, text_fields=("text",))])
        assert records_of(source) == ["a"]
        assert len(parts_of(source)) == 1
