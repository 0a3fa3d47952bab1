"""All texts of some sources in one process, for training a tokenizer."""

from collections.abc import Iterator

from data_prep.inputs.damage import Damage
from data_prep.inputs.parts import read_parts
from data_prep.inputs.records import read_records
from data_prep.inputs.segments import cut_segments, stored_bytes
from data_prep.inputs.sources import Source

_SEGMENT_BYTES = 1 << 30
_PART_BYTES = 1 << 20


def total_bytes(sources: list[Source]) -> int:
    """Stored bytes of all files."""
    return sum(stored_bytes(path) for source in sources for path in source.files)


def read_texts(sources: list[Source]) -> Iterator[tuple[str | Damage, int]]:
    """Every document's text or damage, each source once, and the stored bytes read so far."""
    finished = 0
    for segment in cut_segments(sources, _SEGMENT_BYTES):
        source = sources[segment.source]
        for part in read_parts(segment, source, _PART_BYTES):
            for piece in part.pieces:
                for record in read_records(piece, source):
                    yield record, finished + part.stored_bytes
        finished += segment.bytes
