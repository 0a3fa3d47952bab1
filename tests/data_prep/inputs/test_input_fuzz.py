"""Damaged files of every format: told as damage, never an exception, a crash or a hang."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from input_files import COMPRESS, FORMATS, Record, records_of, source_of

from data_prep.errors import UserError
from data_prep.inputs.damage import Damage
from data_prep.inputs.fields import check_fields

NUM_FILES = 250  # per format, spread over the compressions
NUM_DOCUMENTS = 40
SECONDS_PER_FILE = 5.0
REASONS = {
    "not UTF-8",
    "another encoding",
    "broken JSON",
    "no text field",
    "text is not a string",
    "broken row",
    "record too large",
    "broken file",
}
TEXTS = [f'{number} "quoted", comma\t{"word " * (number % 7)}\u00fc' for number in range(NUM_DOCUMENTS)]

Mutation = Callable[[bytearray, random.Random], None]


def flip_bits(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice([1, 1, 3, 20])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def cut_short(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def delete(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    del data[start : start + draw.choice([1, 8, 100])]


def duplicate(data: bytearray, draw: random.Random) -> None:
    start, size = draw.randrange(len(data)), draw.choice([1, 8, 300])
    data[start:start] = data[start : start + size]


def insert(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    data[start:start] = draw.choice(
        [b"\0" * 50, draw.randbytes(20), b"\xff\xfe\xed\xa0\x80", b'"', b"\n\n", b"\r"]
    )


def overwrite(data: bytearray, draw: random.Random) -> None:
    start, size = draw.randrange(len(data)), draw.choice([1, 2, 4, 8, 64])
    data[start : start + size] = draw.choice([b"\0", b"\xff", b"\x7f"]) * size


def empty(data: bytearray, draw: random.Random) -> None:
    data.clear()


MUTATIONS: list[Mutation] = [flip_bits, flip_bits, cut_short, delete, duplicate, insert, overwrite, overwrite]


def damaged_files(form: str, count: int) -> list[tuple[str, bytes]]:
    """Names and contents, the same in every run."""
    draw = random.Random(form)
    ending, make = FORMATS[form]
    whole = make(TEXTS)
    endings = [each for each, _ in FORMATS.values()]
    files = []
    for number in range(count):
        # Half are damaged as stored and half below their compression.
        compression = draw.choice(["", "", *COMPRESS])
        inner, outer = bytearray(whole), draw.random() < 0.5
        mutate = empty if number % 50 == 0 else draw.choice(MUTATIONS)
        if not outer:
            mutate(inner, draw)
        data = bytearray(COMPRESS[compression](bytes(inner)))
        if outer:
            mutate(data, draw)
        name = draw.choice(endings) if number % 20 == 1 else ending
        files.append((f"{number}-{mutate.__name__}{name}{compression}", bytes(data)))
    return files


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files(tmp_path: Path, form: str) -> None:
    for name, content in damaged_files(form, NUM_FILES):
        path = tmp_path / name
        path.write_bytes(content)
        begun = time.monotonic()
        source = source_of(path)
        records = records_of(source)
        check_records(records, path)
        if form != "text":  # cutting changes which lines have numbers
            assert records_of(source, part_bytes=500) == records, name
        assert [r for r in records_of(source, 700, 300) if isinstance(r, str)] == [
            r for r in records if isinstance(r, str)
        ] or form == "parquet", name
        with suppress(UserError):
            check_fields([source])
        assert time.monotonic() - begun < SECONDS_PER_FILE, name


def check_records(records: list[Record], path: Path) -> None:
    damages = [record for record in records if isinstance(record, Damage)]
    for damage in damages:
        assert damage.reason in REASONS
        assert damage.where.startswith(str(path))
        assert damage.detail
        assert len(damage.detail) <= 200
        assert damage.detail.isprintable()
    # A file breaks once, and then nothing comes of it.
    assert all(damage.reason != "broken file" for damage in damages[:-1])
    assert not damages or damages[-1].reason != "broken file" or records[-1] is damages[-1]
    for record in records:
        if isinstance(record, str):
            record.encode()


@pytest.mark.parametrize("form", ["text", "json"])
def test_damage_within_lines_leaves_the_others_alone(tmp_path: Path, form: str) -> None:
    draw = random.Random(form)
    ending, make = FORMATS[form]
    lines = make(TEXTS).splitlines(keepends=True)
    path = tmp_path / f"a{ending}"
    for _ in range(NUM_FILES):
        hurt = set(draw.sample(range(NUM_DOCUMENTS), draw.choice([1, 2, 10])))
        changed = [hurt_line(line, draw) if number in hurt else line for number, line in enumerate(lines)]
        path.write_bytes(b"".join(changed))
        for sizes in ((1 << 20, 1 << 20), (500, 300)):
            records = records_of(source_of(path), *sizes)
            assert len(records) == NUM_DOCUMENTS
            for number, record in enumerate(records):
                if number not in hurt:
                    assert record == TEXTS[number]
                elif isinstance(record, Damage) and sizes[0] > 500:
                    assert record.where == f"{path}, line {number + 1}"


def hurt_line(line: bytes, draw: random.Random) -> bytes:
    """A line with damage in it, but its end where it was, and not blank."""
    data = bytearray(line[1:-1])
    draw.choice(MUTATIONS)(data, draw)
    inner = bytes(data).replace(b"\n", b" ")
    return line[:1] + inner + b"\n"


def test_rows_find_their_way_again_after_a_quote_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    texts = [f'{number}, "' + "x\n" * (number % 4) + '"' for number in range(100)]
    whole = FORMATS["csv"][1](texts)
    draw = random.Random(0)
    for _ in range(50):
        at = draw.randrange(len(whole) // 3, len(whole) // 2)
        path.write_bytes(whole[:at] + b'"' + whole[at:])
        records = records_of(source_of(path))
        assert records[:20] == texts[:20]
        assert records[-20:] == texts[-20:]
