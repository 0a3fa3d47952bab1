"""Cutting sources into segments: what is read from its beginning by one task, whatever their number."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from data_prep.inputs.compression import is_compressed
from data_prep.inputs.encodings import AUTO, shows_borders
from data_prep.inputs.formats import file_format
from data_prep.inputs.sources import Source
from data_prep.inputs.tables import TABLE_ERRORS, row_group_weights


class Stretch(NamedTuple):
    """A file, or a part of it.

    `start` and `end` are bytes of a file of lines (a record belongs to the stretch in which its first
    byte lies) or row groups of a Parquet file; (0, None) is a whole file of any format.
    """

    path: str
    start: int
    end: int | None


@dataclass(frozen=True)
class Segment:
    """Consecutive stretches of one source.

    Attributes:
        source: The source's index.
        stretches: What is read, in order. Several are whole files.
        bytes: Their size as stored; 0 for a file that has vanished, which is told when it is read.
    """

    source: int
    stretches: tuple[Stretch, ...]
    bytes: int


def cut_segments(sources: list[Source], segment_bytes: int) -> list[Segment]:
    """All segments of all sources, in order: a function of the files and `segment_bytes` alone.

    Uncompressed JSON lines, text by line or block (unless their encoding hides line ends, or is not known
    yet), and Parquet are cut if they are larger than `segment_bytes`; other large files are a segment
    each. Smaller ones are joined.
    """
    return [
        segment for index, source in enumerate(sources) for segment in _segments(index, source, segment_bytes)
    ]


def stored_bytes(path: Path) -> int:
    """A file's size, or 0 if it cannot be seen."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _segments(index: int, source: Source, segment_bytes: int) -> Iterator[Segment]:
    small: list[Stretch] = []
    small_bytes = 0
    for path in source.files:
        size = stored_bytes(path)
        if small and small_bytes + size > segment_bytes:
            yield Segment(index, tuple(small), small_bytes)
            small, small_bytes = [], 0
        if size > segment_bytes:
            for stretch, num_bytes in _cut(path, size, source, segment_bytes):
                yield Segment(index, (stretch,), num_bytes)
        else:
            small.append(Stretch(str(path), 0, None))
            small_bytes += size
    if small:
        yield Segment(index, tuple(small), small_bytes)


def _cut(path: Path, size: int, source: Source, segment_bytes: int) -> list[tuple[Stretch, int]]:
    """Stretches of one large file, with their stored bytes, which sum to `size`."""
    kind = None if is_compressed(path) else file_format(path)
    if kind == "parquet":
        return _cut_row_groups(path, size, segment_bytes)
    has_lines = kind == "json" or (kind == "text" and source.text_documents != "file")
    if has_lines and source.encoding != AUTO and shows_borders(source.encoding):
        count = -(-size // segment_bytes)
        cuts = [size * part // count for part in range(count + 1)]
        return [(Stretch(str(path), start, end), end - start) for start, end in pairwise(cuts)]
    return [(Stretch(str(path), 0, None), size)]


def _cut_row_groups(path: Path, size: int, segment_bytes: int) -> list[tuple[Stretch, int]]:
    whole = [(Stretch(str(path), 0, None), size)]
    try:
        weights = row_group_weights(path)
    except TABLE_ERRORS:
        return whole
    # Where each row group would end if all were compressed alike and filled the file.
    total = sum(weights)
    ends = [size * filled // total for filled in accumulate(weights)]
    cuts, starts = [0], [0]
    for index in range(1, len(ends)):
        if ends[index] - starts[-1] > segment_bytes:
            cuts.append(index)
            starts.append(ends[index - 1])
    if len(cuts) == 1:
        return whole
    stretches = [Stretch(str(path), start, end) for start, end in pairwise([*cuts, len(ends)])]
    return [(stretch, end - start) for stretch, (start, end) in zip(stretches, pairwise([*starts, size]))]
