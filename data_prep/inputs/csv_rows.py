"""One row of a .csv or .tsv file, from its text to its fields."""

import csv

from data_prep.inputs.sources import Quoting

_MAX_FIELD_CHARACTERS = 1 << 30


def parse_row(text: str, delimiter: str, quoting: Quoting) -> list[str]:
    """The fields of the text of one row, with or without its line end; none for a blank line.

    Raises:
        csv.Error: The csv module refuses it.
    """
    line = text.removesuffix("\n").removesuffix("\r")
    if quoting == "none":
        return line.split(delimiter) if line else []
    if '"' not in line and "\r" not in line and "\0" not in line:
        return line.split(delimiter) if line else []
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)  # of the whole process: 128 KiB unless raised
    rows = list(csv.reader([line], delimiter=delimiter))
    if len(rows) != 1:
        raise csv.Error("a line ends inside a row")
    return rows[0]
