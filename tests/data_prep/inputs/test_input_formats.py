"""Every format with every compression gives the same documents, however it is cut."""

import gzip
import io
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_files import (
    COMPRESS,
    FORMATS,
    TEXTS,
    arrow_stream,
    check_parts,
    json_lines,
    parts_of,
    records_of,
    rows,
    source_of,
)
from pydantic import TypeAdapter

from data_prep.inputs.damage import Damage
from data_prep.inputs.segments import Segment, cut_segments
from data_prep.inputs.sources import find_files
from data_prep.inputs.texts import read_texts, total_bytes

PLAIN_TEXTS = [text for text in TEXTS if "\n" not in text]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_documents(tmp_path: Path, form: str, compression: str) -> None:
    ending, content = FORMATS[form]
    path = tmp_path / f"a{ending}{compression}"
    texts = PLAIN_TEXTS if form == "text" else TEXTS
    path.write_bytes(COMPRESS[compression](content(texts)))
    source = source_of(path)
    for segment_bytes, part_bytes in [(1 << 30, 1 << 20), (2000, 700), (1 << 30, 1)]:
        assert records_of(source, segment_bytes, part_bytes) == texts
        check_parts(source, cut_segments([source], segment_bytes), part_bytes)


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_files_compressed_in_several_frames(tmp_path: Path, compression: str) -> None:
    content, compress = json_lines(TEXTS), COMPRESS[compression]
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(compress(content[:999]) + compress(b"") + compress(content[999:]))
    assert records_of(source_of(path)) == TEXTS
    path.write_bytes(compress(content[:999]) + compress(content[999:]) + b"\0" * 1024)
    assert records_of(source_of(path)) == TEXTS


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_a_file_cut_short_gives_what_is_there_and_is_told(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"cut.jsonl{compression}"
    path.write_bytes(COMPRESS[compression](json_lines(TEXTS))[:-9])
    *texts, last = records_of(source_of(path))
    assert texts == TEXTS[: len(texts)]
    assert isinstance(last, Damage)
    assert (last.reason, last.where) == ("broken file", str(path))
    assert "cut short" in last.detail
    assert compression in (".bz2", ".zst") or len(texts) > 100  # these come as one block


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("content", [b"", b"just text", b"\0" * 99], ids=["empty", "text", "zeros"])
def test_a_file_that_is_not_compressed_is_told(tmp_path: Path, compression: str, content: bytes) -> None:
    path = tmp_path / f"plain.txt{compression}"
    path.write_bytes(content)
    assert [(r.reason, r.where) for r in records_of(source_of(path)) if isinstance(r, Damage)] == [
        ("broken file", str(path))
    ]


def test_a_file_that_expands_enormously_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "zeros.txt.bz2"
    path.write_bytes(COMPRESS[".bz2"](b"\0" * (80 << 20)))
    (record,) = records_of(source_of(path))
    assert isinstance(record, Damage)
    assert (record.reason, record.where) == ("record too large", f"{path}, line 1")


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary", "binary"])
def test_every_arrow_type_for_text(tmp_path: Path, kind: str) -> None:
    types = {
        "string": pa.string(),
        "large_string": pa.large_string(),
        "string_view": pa.string_view(),
        "dictionary": pa.dictionary(pa.int8(), pa.string()),
        "binary": pa.binary(),
    }
    values = ["a", None, "\u00fc" * 50, "a"]
    column = pa.array(values, pa.string()).cast(types[kind])
    batch = pa.record_batch([column], names=["text"])
    path = tmp_path / "a.arrow"
    with pa.ipc.new_stream(str(path), batch.schema) as stream:
        stream.write_batch(batch.slice(1))
        stream.write_batch(batch)
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.table([column], names=["text"]), parquet)
    damaged = Damage("text is not a string", f"{path}, row 1", "field 'text' must be a string, not null")
    assert records_of(source_of(path))[:3] == [damaged, "\u00fc" * 50, "a"]
    whole = [record if isinstance(record, str) else None for record in records_of(source_of(path))[3:]]
    assert whole == values
    assert [r if isinstance(r, str) else None for r in records_of(source_of(parquet))] == values


def test_parquet_is_cut_between_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=10)
    source = source_of(path)
    segments = cut_segments([source], path.stat().st_size // 4)
    assert len(segments) >= 3
    assert sum(segment.bytes for segment in segments) == path.stat().st_size
    parts = [part for parts in parts_of(source, path.stat().st_size // 4, 500) for part in parts]
    firsts = [piece.first for part in parts for piece in part.pieces]
    assert firsts == sorted(set(firsts))
    assert firsts[0] == 1


def test_a_saved_dataset_is_read_in_its_order(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_dict({"text": TEXTS, "id": list(range(len(TEXTS)))})
    dataset.save_to_disk(tmp_path / "data" / "saved", num_shards=3)
    dataset.shuffle(seed=1).save_to_disk(tmp_path / "shuffled")
    (tmp_path / "data" / "z.txt").write_text("z\n")
    assert records_of(source_of(*find_files([str(tmp_path / "data")]))) == [*TEXTS, "z"]
    shuffled = records_of(source_of(*find_files([str(tmp_path / "shuffled")])))
    assert shuffled == dataset.shuffle(seed=1)["text"][:]


def test_small_files_share_a_segment_and_a_part(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.csv", "c.arrow", "d.jsonl.gz", "f.txt.gz", "e.jsonl")]
    contents = [json_lines(["a"]), rows(["b"]), arrow_stream(["c"]), gzip.compress(json_lines(["d"]))]
    for path, content in zip(paths, [*contents, b"?", json_lines(["e"])]):
        path.write_bytes(content)
    source = source_of(*paths)
    assert [len(segment.stretches) for segment in cut_segments([source], 1 << 20)] == [6]
    ((part,),) = parts_of(source)
    assert [piece.format for piece in part.pieces] == ["json", "csv", "table", "json", "damage", "json"]
    *before, broken, after = records_of(source)
    assert (before, after) == (["a", "b", "c", "d"], "e")
    assert isinstance(broken, Damage)
    assert broken[:2] == ("broken file", str(paths[4]))
    assert [len(parts) for parts in parts_of(source, 60)] == [1] * len(cut_segments([source], 60))
    assert records_of(source, 60) == records_of(source)


def test_segments_can_be_stored(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(TEXTS))
    segments = cut_segments([source_of(path)], 1000)
    stored = TypeAdapter(list[Segment])
    assert len(segments) > 5
    assert stored.validate_json(stored.dump_json(segments)) == segments


def test_an_old_feather_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.feather"
    path.write_bytes(b"FEA1" + b"\0" * 100)
    (record,) = records_of(source_of(path))
    assert isinstance(record, Damage)
    assert "first Feather version" in record.detail


def test_all_texts_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(TEXTS) + b"broken\n")
    (tmp_path / "b.txt").write_text("one\ntwo\n")
    sources = [source_of(tmp_path / "a.jsonl"), source_of(tmp_path / "b.txt")]
    texts = list(read_texts(sources))
    read = [text for text, _ in texts if isinstance(text, str)]
    assert read == [*TEXTS, "one", "two"]
    assert [text.reason for text, _ in texts if isinstance(text, Damage)] == ["broken JSON"]
    assert texts[-1][1] == total_bytes(sources) == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_several_fields_are_one_document(tmp_path: Path) -> None:
    records = [
        {"title": "T", "body": "B"},
        {"body": "B"},
        {"title": None, "body": "B"},
        {"title": "T", "body": ""},
        {"title": "", "body": ""},
        {"title": None, "body": None},
        {"title": 3, "body": "B"},
        {"other": "x"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    expected = ["T\n\nB", "B", "B", "T", "", "text is not a string", "text is not a string", "no text field"]
    found = records_of(source_of(path, fields=("title", "body")))
    assert [record if isinstance(record, str) else record.reason for record in found] == expected
    # A table has its columns in every row.
    columns = {"title": ["T", None, "", None], "body": ["B", "B", "", None]}
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    parquet = tmp_path / "a.parquet"
    parquet.write_bytes(out.getvalue())
    found = records_of(source_of(parquet, fields=("title", "body")))
    assert [record if isinstance(record, str) else record.reason for record in found] == [
        "T\n\nB",
        "B",
        "",
        "text is not a string",
    ]
