"""Which format a file has, by its ending."""

from pathlib import Path
from typing import Literal

from data_prep.inputs.compression import COMPRESSED_ENDINGS, content_ending

FileFormat = Literal["text", "json", "csv", "parquet", "arrow"]

_FORMATS: dict[str, FileFormat] = {
    ".txt": "text",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
ENDINGS = f"{', '.join(_FORMATS)}, each also with {', '.join(COMPRESSED_ENDINGS)} behind it"


def file_format(path: Path) -> FileFormat | None:
    """The format, or None if the ending is not one of ours."""
    return _FORMATS.get(content_ending(path))


def delimiter(path: Path) -> str:
    """What separates the fields of a .csv or .tsv file."""
    return "\t" if content_ending(path) == ".tsv" else ","
