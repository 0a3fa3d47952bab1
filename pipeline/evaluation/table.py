"""A summary as a table for the terminal."""

import textwrap

from pipeline.evaluation.task import Summary

_NOTE_WIDTH = 110


def render_table(summary: Summary) -> str:
    """Header and rows in columns, numbers to the right, notes below."""
    cells = [list(summary.header), *([_text(value) for value in row] for row in summary.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(summary.header))]
    is_number = [
        any(isinstance(row[column], (int, float)) for row in summary.rows)
        for column in range(len(summary.header))
    ]
    lines = [
        "  " + "  ".join(_align(*cell) for cell in zip(row, widths, is_number)).rstrip() for row in cells
    ]
    return "\n".join([*lines, *map(_wrapped, summary.notes)])


def _wrapped(note: str) -> str:
    """In lines that are indented like the first."""
    indent = " " * (len(note) - len(note.lstrip()))
    return textwrap.fill(
        note.strip(),
        _NOTE_WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _text(value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _align(text: str, width: int, is_number: bool) -> str:
    return text.rjust(width) if is_number else text.ljust(width)
