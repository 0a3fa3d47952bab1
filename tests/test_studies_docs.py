"""What docs/studies.md and the README's tables say of the studies is what their results say."""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.study.comparison import first_reach
from pipeline.study.results import read_results
from pipeline.study.table import render_study

ROOT = Path(__file__).parents[1]
DOC = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "studies"
STUDIES = re.findall(r"<!-- numbers of ([\w-]+) -->\n(.*?)\n\n", DOC, flags=re.DOTALL)


DOWNSTREAM = re.findall(r"<!-- scores of ([\w/-]+) -->\n(.*?)\n\n", DOC, flags=re.DOTALL)


def results_of(name: str) -> dict:
    """In the newest layout, whichever version wrote them."""
    return json.loads(json.dumps(asdict(read_results(RESULTS / name))))


def rows_of(table: str) -> list[dict[str, str]]:
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(header, row)) for row in rows]


def cell_of(results: dict, row: dict[str, str]) -> dict:
    """The cell that a row's columns named like axes say."""
    labels = [row[axis["name"]] for axis in results["axes"]]
    (cell,) = (cell for cell in results["cells"] if cell["labels"] == labels)
    return cell


def told_share(spread: dict | None, num_compared: int) -> str:
    """The mean over the runs that got there, and how many did if not all."""
    if spread is None:
        return "-"
    share = f"{spread['mean']:.2f}"
    return share if spread["num"] == num_compared else f"{share} ({spread['num']} of {num_compared})"


def test_there_are_tables():
    told = {name for name, _ in STUDIES}
    assert told >= {f"{study}-cpu" for study in ("depth", "controls", "sensitivity", "scarce")}
    assert told >= {"extremes-512-cpu", "extremes-2048-cpu", "language-cpu", "forms-cpu", "strength-cpu"}
    assert told >= {"sampling-cpu", "sampling-512-cpu", "encoder-cpu"}
    assert [name for name, _ in DOWNSTREAM] == ["language-cpu/classify", "encoder-cpu/glue"]


@pytest.mark.parametrize(("name", "table"), STUDIES)
def test_numbers_are_those_of_the_results(name, table):
    results = results_of(name)
    for row in rows_of(table):
        cell = cell_of(results, row)
        assert row["final loss"] == f"{cell['final_value']['mean']:.3f}", row
        difference = cell["difference"]
        if difference is None:
            assert row["difference"] == "-"
            continue
        assert row["difference"] == f"{difference['mean']:+.3f}", row
        assert row["%"] == f"{difference['relative_percent']:+.1f}", row
        if difference["interval"] is not None and "95 % interval" in row:
            low, high = difference["interval"]
            assert row["95 % interval"] == f"{low:+.3f} to {high:+.3f}", row
        assert row["steps"] == told_share(cell["steps_fraction"], cell["num_compared"]), row
        if "time" in row:
            assert row["time"] == told_share(cell["seconds_fraction"], cell["num_compared"]), row


def test_the_readme_has_the_numbers_of_the_depths():
    results = results_of("depth-cpu")
    cells = {tuple(cell["labels"]): cell for cell in results["cells"]}
    row = r"^\| (\d+) layers \| ([\d.]+) \| ([\d.]+) \| .*?([\d.]+)(?: of them)? \| ([\d.]+) \|$"
    rows = re.findall(row, README, flags=re.MULTILINE)
    assert [layers for layers, *_ in rows] == ["2", "4", "8", "12", "16"]
    for layers, unguided, guided, steps, time in rows:
        plain, cell = cells["0", layers], cells["0.1", layers]
        assert unguided == f"{plain['final_value']['mean']:.2f}"
        assert guided == f"{cell['final_value']['mean']:.2f}"
        assert steps == f"{cell['steps_fraction']['mean']:.2f}"
        assert time == f"{cell['seconds_fraction']['mean']:.2f}"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/study_results.json")))
def test_results_of_every_version_give_the_table_they_gave(name):
    assert render_study(read_results(RESULTS / name)) == (RESULTS / name / "table.md").read_text()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/study_results.json")))
def test_runs_of_a_pair_were_evaluated_on_the_same_rows(name):
    """While two runs have trained alike, they must be at the same held-out loss."""
    results = results_of(name)
    cells = {cell["name"]: cell for cell in results["cells"]}
    for cell in cells.values():
        for run, other in zip(cell["runs"], cells[cell["baseline"]]["runs"]):
            curves = run["curve"], other["curve"]
            known = [set(curve[steps]) for curve in curves for steps in ("steps", "train_steps")]
            for step in sorted(set.intersection(*known))[:1]:
                training = loss_at(curves[0], "train_", step) - loss_at(curves[1], "train_", step)
                held_out = loss_at(curves[0], "", step) - loss_at(curves[1], "", step)
                assert abs(held_out) < 0.03 or abs(training) > 0.002, (cell["labels"], run["seed"])


def loss_at(curve, kind, step):
    """The held-out loss of a curve, or with "train_" that of training, where there is a line."""
    return curve[f"{kind}losses"][curve[f"{kind}steps"].index(step)]


def test_pairs_of_unfinished_runs_are_those_of_the_results():
    """At the last step at which both have been evaluated."""
    ((name, table),) = re.findall(r"<!-- runs of ([\w-]+) -->\n(.*?)\n\n", DOC, flags=re.DOTALL)
    results = results_of(name)
    curves = {
        (*cell["labels"], str(run["seed"])): run["curve"] for cell in results["cells"] for run in cell["runs"]
    }
    rows = rows_of(table)
    assert len(rows) == len(curves) / 2
    for row in rows:
        plain, guided = (curves[weight, row["layers"], row["seed"]] for weight in ("0", "0.1"))
        step = max(set(plain["steps"]) & set(guided["steps"]))
        num = guided["steps"].index(step) + 1
        losses, target = guided["losses"][:num], plain["losses"][plain["steps"].index(step)]
        assert (row["step"], row["unguided"], row["guided"]) == (
            f"{step:,}", f"{target:.3f}", f"{losses[-1]:.3f}",
        ), row  # fmt: skip
        assert row["%"] == f"{100 * (losses[-1] / target - 1):+.1f}", row
        reached = first_reach(guided["steps"][:num], losses, target)
        assert (row["reached"], row["share"]) == (f"{reached:,.0f}", f"{reached / step:.2f}"), row
        assert losses[-1] <= 1.005 * target, "the promise"


@pytest.mark.parametrize(("name", "table"), DOWNSTREAM)
def test_scores_are_those_of_the_results(name, table):
    results = json.loads((RESULTS / f"{name}.json").read_text())
    rows = rows_of(table)
    assert len(rows) == len(results["cells"])
    for row, cell in zip(rows, results["cells"]):
        spread, difference = cell["spread"], cell["difference"]
        assert row["arm"] == cell["labels"][0]
        assert row["score"] == f"{spread['mean']:.3f} ± {spread['std']:.3f}", row
        told = "-" if difference is None else f"{difference['mean']:+.3f}"
        assert row["difference"] == told, row
        if difference is not None:
            assert row["95 % interval"] == "{:+.3f} to {:+.3f}".format(*difference["interval"]), row


def test_no_default_ends_half_a_percent_above_none():
    """The promise of docs/studies.md, of every study that trained with the defaults."""
    checked, worst_run = 0, -math.inf
    for name, _ in STUDIES:
        results = results_of(name)
        for cell in results["cells"]:
            is_default = cell["settings"].get("guidance.weight", 0.1) == 0.1 and not any(
                key.startswith("guidance.") and key != "guidance.weight" for key in cell["settings"]
            )
            if is_default and cell["difference"] is not None:
                assert cell["difference"]["relative_percent"] <= 0.5, (name, cell["labels"])
                checked += 1
                worst_run = max(worst_run, *map(excess_percent, cell["runs"]))
    assert checked >= 20
    (told,) = re.findall(r"the worst single run is ([\d.]+) % above", DOC)
    assert told == f"{worst_run:.1f}"


def excess_percent(run: dict) -> float:
    """By how much a run ends above its baseline."""
    return 100 * run["comparison"]["difference"] / run["comparison"]["baseline_value"]


def test_studies_named_exist_and_figures_are_there():
    from benchmarks.studies import STUDIES as KNOWN

    for study in re.findall(r"benchmarks\.studies (\w+)", DOC):
        assert study in KNOWN or study == "STUDY", study
    for target in re.findall(r"\]\(([^)#]+)\)|<img src=\"([^\"]+)\"", DOC):
        for path in target:
            assert not path or "://" in path or (ROOT / "docs" / path).exists(), path
