"""What the tests of inputs share: files of every format and compression, and reading them in one call."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from data_prep.inputs.damage import Damage
from data_prep.inputs.parts import Part, read_parts
from data_prep.inputs.records import read_records
from data_prep.inputs.segments import Segment, cut_segments
from data_prep.inputs.sources import Source, TextDocuments

TEXTS = ["one", "zwei \u00fc\n\nzeilen", 'drei, "quoted"\t\U0001f600', "", "vier\r\nwindows", '"'] + [
    f"number {number} " + "word " * (number % 40) for number in range(200)
]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
Record = str | Damage


def json_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)).encode()


def rows(texts: list[str], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows([["id", "text"], *([str(number), text] for number, text in enumerate(texts))])
    return out.getvalue().encode()


def table(texts: list[str]) -> pa.Table:
    return pa.table({"id": list(range(len(texts))), "text": pa.array(texts, pa.string())})


def parquet(texts: list[str], row_group_size: int = 64) -> bytes:
    out = io.BytesIO()
    pq.write_table(table(texts), out, row_group_size=row_group_size)
    return out.getvalue()


def arrow_stream(texts: list[str]) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table(texts).schema) as stream:
        stream.write_table(table(texts), max_chunksize=16)
    return out.getvalue()


def arrow_file(texts: list[str]) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_file(out, table(texts).schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
        file.write_table(table(texts), max_chunksize=16)
    return out.getvalue()


def text_lines(texts: list[str]) -> bytes:
    return "".join(text + "\n" for text in texts).encode()


# Ending and content of files that hold the given texts, a record each.
FORMATS: dict[str, tuple[str, Callable[[list[str]], bytes]]] = {
    "json": (".jsonl", json_lines),
    "csv": (".csv", rows),
    "tsv": (".tsv", lambda texts: rows(texts, "\t")),
    "parquet": (".parquet", parquet),
    "arrow stream": (".arrow", arrow_stream),
    "arrow file": (".feather", arrow_file),
    "text": (".txt", text_lines),
}


def source_of(
    *paths: Path,
    fields: tuple[str, ...] = ("text",),
    text_documents: TextDocuments = "line",
    encoding: str = "utf-8",
) -> Source:
    return Source("corpus", paths, fields, text_documents, 1.0, encoding=encoding)


def parts_of(source: Source, segment_bytes: int = 1 << 30, part_bytes: int = 1 << 20) -> list[list[Part]]:
    return [
        list(read_parts(segment, source, part_bytes)) for segment in cut_segments([source], segment_bytes)
    ]


def records_of(source: Source, segment_bytes: int = 1 << 30, part_bytes: int = 1 << 20) -> list[Record]:
    parts = [part for parts in parts_of(source, segment_bytes, part_bytes) for part in parts]
    return [record for part in parts for piece in part.pieces for record in read_records(piece, source)]


def check_parts(source: Source, segments: list[Segment], part_bytes: int) -> None:
    """What holds for the parts of any segment: numbers from 0, progress that ends with its bytes."""
    for segment in segments:
        parts = list(read_parts(segment, source, part_bytes))
        assert [part.number for part in parts] == list(range(len(parts)))
        assert all(part.pieces for part in parts)
        progress = [part.stored_bytes for part in parts]
        assert progress == sorted(progress)
        assert not parts or progress[-1] == segment.bytes
