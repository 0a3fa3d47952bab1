"""The lines of a run's logs, and what is damaged about them, read while somebody writes them."""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

_TAIL_BYTES = 1 << 20  # some hundred lines of metrics.jsonl
_LARGEST_TAIL_BYTES = 1 << 26

Line = dict[str, Any]


class Lines(NamedTuple):
    """Objects of a JSON-lines file, oldest first, and what is wrong with the file, in words."""

    objects: list[Line]
    damage: list[str]


def read_lines(path: Path, key: str, last_bytes: int | None = None) -> Lines:
    """The lines of a file that is there, or of its last bytes only.

    Args:
        path: a JSON-lines file.
        key: what every line must have a text for; lines that do not are counted as unreadable.
        last_bytes: how much of the file's end to read; None for all.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = 0 if last_bytes is None else max(0, size - last_bytes)
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return Lines([], [f"{path.name} is missing"])
    except OSError as error:
        return Lines([], [f"{path.name} cannot be read ({error.strerror})"])
    # What follows the last newline is being written; what precedes the first, of a tail, is half a line.
    complete = content.split(b"\n")[1 if start else 0 : -1]
    objects = [line for line in parse_lines(complete) if isinstance(line.get(key), str)]
    unreadable = sum(map(bool, complete)) - len(objects)
    lines = "1 line is" if unreadable == 1 else f"{unreadable} lines are"
    return Lines(objects, [f"{path.name}: {lines} unreadable"] if unreadable else [])


def parse_lines(lines: Iterable[bytes]) -> Iterator[Line]:
    """The objects that the lines hold; what a crash cut short is left out."""
    for line in lines:
        with contextlib.suppress(ValueError):
            if isinstance(value := json.loads(line), dict):
                yield value


def read_last_metrics(path: Path) -> Lines:
    """The end of metrics.jsonl, as much of it as is needed for the last line of each kind.

    The file of a long run has hundreds of megabytes; looking at it should take no longer for that.
    """
    num_bytes = _TAIL_BYTES
    while True:
        lines = read_lines(path, "kind", num_bytes)
        all_kinds = {"train", "valid"} <= {line["kind"] for line in lines.objects}
        if all_kinds or num_bytes >= _LARGEST_TAIL_BYTES or not _is_longer(path, num_bytes):
            return lines
        num_bytes *= 8


def time_of(line: Line) -> datetime | None:
    """When a line was written; None if it does not say."""
    try:
        time = datetime.fromisoformat(line["time"])
    except (KeyError, TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def iso(time: datetime | None) -> str | None:
    """A time as the logs write it."""
    return None if time is None else time.isoformat(timespec="seconds")


def number_of(line: Line, key: str) -> float | None:
    """A number of a line; None if there is no finite one."""
    value = line.get(key)
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def whole_number_of(line: Line, key: str) -> int | None:
    """The same for a count."""
    value = number_of(line, key)
    return None if value is None else int(value)


def _is_longer(path: Path, num_bytes: int) -> bool:
    try:
        return path.stat().st_size > num_bytes
    except OSError:
        return False
