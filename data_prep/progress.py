"""Progress on stderr: a live bar in a terminal, a line every ten seconds in a log file."""

import io
import sys

from tqdm import tqdm

_LOG_SECONDS = 10.0
_LOG_LINE = (
    "{desc}: {percentage:3.0f}% of {total_fmt}{unit}, {elapsed} gone, {remaining} left, {rate_fmt}{postfix}"
)


def progress_bar(description: str, total: int, unit: str) -> tqdm:
    """A bar over `total` things called `unit`; counts are shown with k, M, G."""
    if sys.stderr.isatty():
        return tqdm(desc=description, total=total, unit=unit, unit_scale=True, dynamic_ncols=True)
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        unit_scale=True,
        mininterval=_LOG_SECONDS,
        maxinterval=_LOG_SECONDS,
        delay=_LOG_SECONDS,
        bar_format=_LOG_LINE,
        file=_LogLines(),
    )


class _LogLines(io.TextIOBase):
    """Turns a bar's redrawing, carriage returns and padding, into whole lines."""

    def write(self, text: str) -> int:
        line = text.strip("\r\n ")
        if line:
            sys.stderr.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()
