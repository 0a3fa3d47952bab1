"""Where one record ends and the next begins in raw bytes, without decoding them.

A *border* is a position at which a record may begin. Each kind of record has two ways of finding borders: the
last one within reach, which must be fast, and a scanner that goes on from chunk to chunk, for records of
any size.
"""

import re
from typing import Protocol

WHITE_SPACE = b" \t\r\v\f"  # of a blank line, beside its line feed
_BLANK = re.compile(rb"[ \t\r\v\f]*")
_BLANK_LINE_AFTER = re.compile(rb"\n[ \t\r\v\f]*\n")


class Scanner(Protocol):
    """Finds the end of the record that begins where scanning begins, fed chunk by chunk."""

    def find(self, data: bytes, start: int, end: int) -> int:
        """The first border in `data` behind `start`, up to `end`, or -1 if this chunk has none."""


class Borders(Protocol):
    """Borders of one kind of record."""

    def last(self, data: bytes, start: int, end: int) -> int:
        """The last border in `data` from `start` to `end`; `start`, where a record begins, if no other."""

    def scanner(self) -> Scanner:
        """A scanner for one record."""


class Lines:
    """Records are lines."""

    def last(self, data: bytes, start: int, end: int) -> int:
        """See Borders."""
        return max(start, data.rfind(b"\n", start, end) + 1)

    def scanner(self) -> Scanner:
        """See Borders."""
        return _LineScanner()


class _LineScanner:
    def find(self, data: bytes, start: int, end: int) -> int:
        return data.find(b"\n", start, end) + 1 or -1


class Blocks:
    """Records are runs of lines that are not blank; a border is behind each blank line."""

    def last(self, data: bytes, start: int, end: int) -> int:
        """See Borders."""
        line_end = data.rfind(b"\n", start, end)
        while line_end >= start:
            before = data.rfind(b"\n", start, line_end)
            line_start = before + 1 if before >= start else start
            if not data[line_start:line_end].strip(WHITE_SPACE):
                return line_end + 1
            line_end = before
        return start

    def scanner(self, at_line_start: bool = True) -> Scanner:
        """See Borders; `at_line_start` tells whether scanning begins at the first byte of a line."""
        return _BlockScanner(at_line_start)


class _BlockScanner:
    def __init__(self, at_line_start: bool) -> None:
        self._line_is_blank = at_line_start  # so far

    def find(self, data: bytes, start: int, end: int) -> int:
        if self._line_is_blank:
            blank_end = _blank_end(data, start, end)
            if blank_end == end:
                return -1
            if data[blank_end] == ord("\n"):
                return blank_end + 1
            start = blank_end
        if match := _BLANK_LINE_AFTER.search(data, start, end):
            return match.end()
        line_start = data.rfind(b"\n", start, end) + 1
        self._line_is_blank = line_start > 0 and _blank_end(data, line_start, end) == end
        return -1


def _blank_end(data: bytes, start: int, end: int) -> int:
    match = _BLANK.match(data, start, end)
    assert match is not None  # it matches nothing, too
    return match.end()


class Rows:
    """Records are rows of a .csv or .tsv file, in which a quoted field may hold line feeds.

    Quotes mean what they mean to the csv module: a field is quoted if it begins with a quote; within
    it, a quote is doubled; elsewhere, a quote is a character like any other.
    """

    def __init__(self, delimiter: str) -> None:
        """`delimiter` is one ASCII character."""
        self._delimiter = delimiter.encode()

    def last(self, data: bytes, start: int, end: int) -> int:
        """See Borders."""
        if data.find(b'"', start, end) < 0:
            return max(start, data.rfind(b"\n", start, end) + 1)
        border = start
        while (found := self.scanner().find(data, border, end)) >= 0:
            border = found
        return border

    def scanner(self) -> "RowScanner":
        """See Borders."""
        return RowScanner(self._delimiter)


_FIELD_START, _UNQUOTED, _QUOTED, _QUOTE_IN_QUOTED = range(4)


class RowScanner:
    """Follows quotes; between chunks, it remembers only its state."""

    def __init__(self, delimiter: bytes) -> None:
        """Begin at a row's first byte."""
        self._delimiter = delimiter
        self._quoted_field = delimiter + b'"'
        self._state = _FIELD_START

    @property
    def quote_is_open(self) -> bool:
        """Whether what was fed ends inside a quoted field."""
        return self._state == _QUOTED

    def find(self, data: bytes, start: int, end: int) -> int:
        """See Scanner."""
        state, at = self._state, start
        while at < end:
            if state == _QUOTED:
                at = data.find(b'"', at, end) + 1
                if not at:
                    break
                state = _QUOTE_IN_QUOTED
            elif state == _UNQUOTED:
                line_feed = data.find(b"\n", at, end)
                reach = end if line_feed < 0 else line_feed
                quoted = data.find(self._quoted_field, at, reach)
                if quoted >= 0:
                    state, at = _QUOTED, quoted + 2
                elif line_feed >= 0:
                    return line_feed + 1
                else:
                    state = _FIELD_START if data.endswith(self._delimiter, at, end) else _UNQUOTED
                    break
            elif data.startswith(b'"', at, end):
                state, at = _QUOTED, at + 1
            else:
                # The same byte again: it may end the field or the row.
                state = _UNQUOTED
        self._state = state
        return -1


class WholeFile:
    """The file is one record."""

    def last(self, data: bytes, start: int, end: int) -> int:
        """See Borders."""
        return start

    def scanner(self) -> Scanner:
        """See Borders."""
        return _NoScanner()


class _NoScanner:
    def find(self, data: bytes, start: int, end: int) -> int:
        return -1
