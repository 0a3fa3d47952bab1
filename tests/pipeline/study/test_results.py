"""From run directories to study_results.json, table and figures."""

import json
from dataclasses import replace

import pytest

from pipeline.errors import DataError
from pipeline.study.curves import Curve
from pipeline.study.results import read_results, summarize, write_results
from pipeline.study.table import render_study
from pipeline.study.write import write_study
from tests.pipeline.study.synthetic import curve_of, make_grid, synthetic_curves, write_run

TWO_BY_TWO = {"guidance.weight": ["0", "7"], "model.num_layers": ["4", "12"]}


def cell_of(results, *labels):
    return next(cell for cell in results.cells if cell.labels == labels)


def row_of(text: str, *labels: str) -> list[str]:
    rows = [[field.strip() for field in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    return next(row for row in rows if tuple(row[: len(labels)]) == labels)


def test_runs_are_paired_by_seed_and_only_where_both_are():
    grid = make_grid({"arm": ["off", "on"]}, seeds=(3, 4, 5))
    off, on = (cell.name for cell in grid.cells())
    missing = Curve(state="missing")
    curves = {
        off: [curve_of([7.0, 5.0]), curve_of([7.0, 6.0]), missing],
        on: [curve_of([6.0, 4.0]), missing, curve_of([6.0, 3.0])],
    }
    results = summarize(grid, curves, None)
    cell = cell_of(results, "on")
    assert cell.final_value.num == 2
    assert (cell.difference.num_pairs, cell.difference.mean) == (1, -1.0)
    assert [run.comparison is None for run in cell.runs] == [False, True, True]
    assert (cell.num_compared, cell.steps_fraction.mean) == (1, 15 / 20)
    baseline = cell_of(results, "off")
    assert baseline.difference is None
    assert baseline.steps_fraction.mean == 1.0
    text = render_study(results)
    assert row_of(text, "on") == [
        *("on", "2 of 3", "3.5000 ± 0.7071", "-1.0000", "-", "-20.00", "-", "1 of 1"),
        *("0.750", "0.750", "-1.0000", "-"),
    ]
    assert "2 runs are missing, in no mean and no difference: off (seed 5); on (seed 4)." in text


def test_every_cell_is_compared_with_the_baseline_of_its_setting():
    grid = make_grid(TWO_BY_TWO, seeds=(0,))
    finals = {("0", "4"): 5.0, ("0", "12"): 6.0, ("7", "4"): 4.5, ("7", "12"): 4.0}
    curves = {cell.name: [curve_of([7.0, finals[cell.labels]])] for cell in grid.cells()}
    results = summarize(grid, curves, unigram_loss=5.5)
    assert cell_of(results, "7", "4").difference.mean == -0.5
    assert cell_of(results, "7", "12").difference.mean == -2.0
    assert {arm: found.num_above_unigram for arm, found in results.arms.items()} == {"0": 1, "7": 0}
    assert (results.arms["0"].best, results.arms["0"].worst) == (5.0, 6.0)
    text = render_study(results)
    assert "One seed: there is no spread, no interval and no test." in text
    assert row_of(text, "0", "2") == ["0", "2", "5.0000", "5.5000", "6.0000", "0.7071", "2", "0", "1 of 2"]


def test_runs_that_never_reach_the_target_and_diverge_are_told():
    grid = make_grid({"arm": ["off", "on", "bad"]}, seeds=(0, 1))
    off, on, bad = (cell.name for cell in grid.cells())
    diverged = curve_of([7.0, None], state="diverged")
    curves = {
        off: [curve_of([7.0, 5.0])] * 2,
        on: [curve_of([6.0, 4.0]), curve_of([6.0, 5.5])],
        bad: [curve_of([7.0, 6.0]), diverged],
    }
    text = render_study(summarize(grid, curves, None))
    assert row_of(text, "on")[8] == "0.750 (1 of 2)"
    assert row_of(text, "bad")[1] == "1 of 2"
    assert row_of(text, "bad")[8] == "never"
    assert "1 run is diverged, in no mean and no difference: bad (seed 1 at step 20)." in text
    assert "p not corrected for 2 comparisons" in text


def test_results_can_be_read_again(tmp_path):
    grid = make_grid(TWO_BY_TWO)
    curves = synthetic_curves(grid)
    first = grid.cells()[0].name
    curves[first][0] = replace(curves[first][0], state="diverged", losses=(*[7.0] * 11, None))
    results = summarize(grid, curves, 6.9)
    path = write_results(tmp_path, results)
    assert read_results(tmp_path) == results
    assert "NaN" not in path.read_text()
    path.write_text('{"axes": ')
    with pytest.raises(DataError, match=r"study_results\.json cannot be read"):
        read_results(tmp_path)
    with pytest.raises(DataError, match=r"study_results\.json cannot be read"):
        read_results(tmp_path / "nowhere")


def test_study_in_progress_is_written_with_what_there_is(tmp_path):
    grid = make_grid(TWO_BY_TWO, seeds=(0, 1))
    for cell in grid.cells()[:3]:
        for seed in grid.seeds:
            final = 5.0 - 0.5 * (cell.labels[0] == "7") + 0.1 * seed
            train = [{"step": 20, "step_seconds": 1.0}, {"step": 40, "step_seconds": 1.0}]
            valid = [{"step": 20, "loss": 6.0}, {"step": 40, "loss": final}]
            write_run(tmp_path / "runs" / cell.name / f"seed-{seed}", train, valid)
    results = write_study(tmp_path, grid)
    assert cell_of(results, "7", "4").difference.mean == pytest.approx(-0.5)
    assert cell_of(results, "7", "12").final_value is None
    written = json.loads((tmp_path / "study_results.json").read_text())
    assert [run["final_value"] for run in written["cells"][2]["runs"]] == [4.5, 4.6]
    assert (tmp_path / "table.md").read_text() == render_study(results)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {"curves.png", "speed.png", "sensitivity.png", "difference.png"}


def test_study_without_any_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"runs holds no run of this study"):
        write_study(tmp_path, make_grid(TWO_BY_TWO))
    assert list(tmp_path.iterdir()) == []
