"""A window onto a stream of bytes: as much as one piece needs, and no more."""

from collections.abc import Iterator
from typing import NamedTuple

from data_prep.inputs.borders import Borders, Scanner


class Window:
    """Bytes read but not yet given out; a read error ends the stream and is kept.

    Attributes:
        data: What is held; `start` is where the unread part begins.
        error: What ended the stream before its time, if anything did.
    """

    def __init__(self, chunks: Iterator[bytes], errors: tuple[type[Exception], ...], offset: int = 0) -> None:
        """Read `chunks`, of which the first byte is byte `offset` of the file."""
        self.data = b""
        self.start = 0
        self.error: Exception | None = None
        self._chunks = chunks
        self._errors = errors
        self._data_offset = offset
        self._ended = False

    @property
    def left(self) -> int:
        """Bytes held and not given out."""
        return len(self.data) - self.start

    @property
    def offset(self) -> int:
        """The place in the file of the first byte not given out."""
        return self._data_offset + self.start

    def fill(self, num_bytes: int) -> bool:
        """Hold at least so many bytes; False if the stream ends sooner."""
        if self.left >= num_bytes:
            return True
        chunks, held = [self.data[self.start :]], self.left
        while held < num_bytes and (chunk := self._read()):
            chunks.append(chunk)
            held += len(chunk)
        self._data_offset += self.start
        self.data, self.start = b"".join(chunks), 0
        return held >= num_bytes

    def take(self, end: int) -> bytes:
        """Give out what lies before `end`, an index into `data`."""
        taken = self.data[self.start : end]
        self.start = end
        return taken

    def skip_record(self, scanner: Scanner) -> int:
        """Throw away the rest of a record, of which `scanner` knows everything held, and count its lines.

        The line feeds counted are those of the whole record; nothing but one chunk is held.
        """
        line_feeds = self.data.count(b"\n", self.start)
        while chunk := self._read():
            self._data_offset += len(self.data)
            self.data, self.start = chunk, 0
            border = scanner.find(chunk, 0, len(chunk))
            if border >= 0:
                self.start = border
                return line_feeds + chunk.count(b"\n", 0, border)
            line_feeds += chunk.count(b"\n")
        self.start = len(self.data)
        return line_feeds

    def _read(self) -> bytes:
        """The next bytes; none at the end."""
        while not self._ended:
            try:
                if chunk := next(self._chunks, None):
                    return chunk
                self._ended = chunk is None
            except self._errors as error:
                self.error, self._ended = error, True
        return b""


class Cut(NamedTuple):
    """Whole records, one behind the other, or one that is too large (then `data` is None).

    `line_feeds` are those of a record that is too large.
    """

    offset: int
    data: bytes | None
    line_feeds: int


def cut_records(window: Window, borders: Borders, target_bytes: int, max_record_bytes: int) -> Iterator[Cut]:
    """All records of a window's stream, in cuts of at most `target_bytes` or of one larger record.

    Where the cuts are depends on the bytes alone, not on the chunks they came in. If the stream ends with
    an error, the record that it cuts short is left out.
    """
    target_bytes = min(target_bytes, max_record_bytes)
    while window.fill(1):
        if window.fill(target_bytes):
            end = borders.last(window.data, window.start, window.start + target_bytes)
        elif window.error is None:
            end = len(window.data)
        else:
            end = borders.last(window.data, window.start, len(window.data))
        if end > window.start:
            yield Cut(window.offset, window.take(end), 0)
            continue
        offset, scanner = window.offset, borders.scanner()
        end = record_end(window, scanner, max_record_bytes)
        if 0 <= end - window.start <= max_record_bytes:
            if end == window.start:
                return
            yield Cut(offset, window.take(end), 0)
        elif end < 0:
            yield Cut(offset, None, window.skip_record(scanner))
        else:
            yield Cut(offset, None, window.take(end).count(b"\n"))


def record_end(window: Window, scanner: Scanner, max_record_bytes: int) -> int:
    """Where in `window.data`, which grows as needed, the record ends that begins at `window.start`.

    It is `window.start` if an error cuts the record short, and -1 if it goes on behind
    `max_record_bytes`, with all that is held fed to `scanner`.
    """
    searched = window.start
    while True:
        end = scanner.find(window.data, searched, len(window.data))
        if end >= 0:
            return end
        held = window.left
        if held > max_record_bytes:
            return -1
        window.fill(min(max(2 * held, 1), max_record_bytes + 1))
        if window.left == held:
            return len(window.data) if window.error is None else window.start
        searched = window.start + held
