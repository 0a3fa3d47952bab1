"""A summary as a table for the terminal."""

from pipeline.evaluation.task import Summary


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
    return "\n".join([*lines, *summary.notes])


def _text(value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _align(text: str, width: int, is_number: bool) -> str:
    return text.rjust(width) if is_number else text.ljust(width)
