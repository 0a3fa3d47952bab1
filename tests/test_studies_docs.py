"""What docs/studies.md and the README say of the studies is what their results say."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOC = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "studies"
STUDIES = re.findall(r"<!-- numbers of ([\w-]+) -->\n(.*?)\n\n", DOC, flags=re.DOTALL)


def rows_of(table: str) -> list[dict[str, str]]:
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(header, row)) for row in rows]


def cell_of(results: dict, row: dict[str, str]) -> dict:
    """The cell that a row's columns named like axes say."""
    labels = [row[axis["name"]] for axis in results["axes"]]
    (cell,) = (cell for cell in results["cells"] if cell["labels"] == labels)
    return cell


def test_there_are_tables():
    assert {"depth-cpu", "controls-cpu", "sensitivity-cpu"} <= {name for name, _ in STUDIES}


@pytest.mark.parametrize(("name", "table"), STUDIES)
def test_numbers_are_those_of_the_results(name, table):
    results = json.loads((RESULTS / name / "study_results.json").read_text())
    for row in rows_of(table):
        cell = cell_of(results, row)
        assert row["final loss"] == f"{cell['final_loss']['mean']:.3f}", row
        difference, steps = cell["difference"], cell["steps_fraction"]
        if difference is None:
            assert row["difference"] == "-"
            continue
        assert row["difference"] == f"{difference['mean']:+.3f}", row
        assert row["%"] == f"{difference['relative_percent']:+.1f}", row
        if difference["interval"] is not None and "95 % interval" in row:
            low, high = difference["interval"]
            assert row["95 % interval"] == f"{low:+.3f} to {high:+.3f}", row
        reached = "-" if steps is None else f"{steps['mean']:.2f}"
        if steps is not None and steps["num"] < cell["num_compared"]:
            reached += f" ({steps['num']} of {cell['num_compared']})"
        assert row["steps"] == reached, row


def test_studies_named_exist_and_figures_are_there():
    from benchmarks.studies import STUDIES as KNOWN

    for study in re.findall(r"benchmarks\.studies (\w+)", DOC):
        assert study in KNOWN or study == "STUDY", study
    for target in re.findall(r"\]\(([^)#]+)\)|<img src=\"([^\"]+)\"", DOC):
        for path in target:
            assert not path or "://" in path or (ROOT / "docs" / path).exists(), path
