"""Figures of studies of any shape, drawn without a warning and from the JSON alone."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from pipeline.study.curve_figure import draw_curves
from pipeline.study.curves import Curve
from pipeline.study.figures import draw_difference, draw_sensitivity, draw_speed, draw_study
from pipeline.study.results import read_results, summarize, write_results
from tests.pipeline.study.synthetic import curve_of, make_grid, synthetic_curves

pytestmark = pytest.mark.filterwarnings("error")

SHAPES = {
    "one axis": {"guidance.weight": ["0", "3.5", "7"]},
    "two axes": {"arm": ["off", "costs $1 or $2", "_"], "model.num_layers": ["4", "12"]},
    "three axes": {"guidance.weight": ["0", "7"], "optimizer.lr": ["1e-4", "1e-3"], "warmup": ["0", "9"]},
    "four axes": {"arm": ["off", "on"], "a.b": ["1", "2"], "c": ["1", "2"], "d": ["1", "2"]},
}
DIVERGED = curve_of([7.0, 7.5, 90.0, *[None] * 9], state="diverged")


def study_of(axes, *, seeds=(0, 1, 2), spoil=False, unigram=6.9):
    """With `spoil`, the last cell and one of the baseline's lack runs in every way there is."""
    grid = make_grid(axes, seeds)
    curves = synthetic_curves(grid)
    if spoil:
        first, *_, last = (cell.name for cell in grid.cells())
        whole = curves[last][0]
        cut = {name: getattr(whole, name)[:5] for name in ("train_steps", "steps", "seconds", "losses")}
        curves[first][0] = DIVERGED
        curves[last] = [Curve(state="missing"), DIVERGED, replace(whole, state="unfinished", **cut)]
    return summarize(grid, curves, unigram)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_figure_is_drawn_though_runs_are_missing(shape, tmp_path):
    files = draw_study(tmp_path, study_of(SHAPES[shape], spoil=True))
    assert len(files) == 4
    assert all(file.stat().st_size > 5_000 for file in files)


def test_figures_come_from_the_json_alone(tmp_path):
    results = study_of(SHAPES["one axis"])
    write_results(tmp_path, results)
    (tmp_path / "again").mkdir()
    for one, other in zip(
        draw_study(tmp_path, results), draw_study(tmp_path / "again", read_results(tmp_path))
    ):
        assert one.read_bytes() == other.read_bytes()


def test_study_of_one_seed_and_one_evaluation_is_drawn(tmp_path):
    grid = make_grid(SHAPES["three axes"], seeds=(7,))
    curves = {cell.name: [curve_of([5.0])] for cell in grid.cells()}
    assert len(draw_study(tmp_path, summarize(grid, curves, None))) == 4


def test_study_in_which_nothing_can_be_compared_is_drawn(tmp_path):
    grid = make_grid(SHAPES["three axes"])
    curves = {
        cell.name: [Curve(state="unfinished"), Curve(state="missing"), DIVERGED] for cell in grid.cells()
    }
    assert len(draw_study(tmp_path, summarize(grid, curves, None))) == 4


def test_curves_have_a_row_per_choice_and_the_mean_of_the_runs():
    results = study_of(SHAPES["two axes"])
    axes = draw_curves(results).axes
    assert [panel.get_title() for panel in axes] == ["num_layers = 4"] * 2 + ["num_layers = 12"] * 2
    assert [panel.get_xlabel() for panel in axes] == ["", "", "step", "training time (s)"]
    runs = results.cell("off", ("4",)).runs
    (mean,) = [line for line in axes[0].lines if line.get_linewidth() == 2 and line.get_color() == "0.35"]
    assert mean.get_ydata() == pytest.approx(np.mean([run.curve.losses for run in runs], axis=0))
    assert list(mean.get_xdata()) == list(runs[0].curve.steps)


def test_diverging_run_does_not_flatten_the_others():
    results = study_of(SHAPES["two axes"], spoil=True)
    panel = draw_curves(results).axes[0]
    assert panel.get_ylim()[1] < 8


def test_speed_has_a_point_per_seed_and_marks_those_that_never_reach():
    grid = make_grid({"arm": ["off", "on"]}, seeds=(0, 1, 2))
    off, on = (cell.name for cell in grid.cells())
    curves = {off: [curve_of([7.0, 5.0])] * 3, on: [curve_of([6.0, 4.0])] * 2 + [curve_of([6.0, 5.5])]}
    panel = draw_speed(summarize(grid, curves, None)).axes[0]
    points = [line for line in panel.lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in points] == [[0.75, 0.75]]
    (cross,) = [line for line in panel.lines if line.get_marker() == "x"]
    assert cross.get_ydata()[0] > 1
    assert [text.get_text() for text in panel.texts] == ["never"]


def test_difference_shows_points_and_the_interval():
    results = study_of({"arm": ["off", "on"]})
    cell = results.cell("on", ())
    panel = draw_difference(results).axes[0]
    (points,) = [line for line in panel.lines if line.get_marker() == "o"]
    assert list(points.get_ydata()) == [run.comparison.difference for run in cell.runs]
    drawn = [
        segment
        for item in panel.collections
        if isinstance(item, LineCollection)
        for segment in item.get_segments()
    ]
    heights = [tuple(segment[:, 1]) for segment in drawn]
    assert pytest.approx(cell.difference.interval) in heights


def test_maps_share_a_scale_and_tell_diverged_runs():
    results = study_of(SHAPES["three axes"], spoil=True)
    left, right = draw_sensitivity(results).axes[:2]
    assert left.images[0].get_clim() == right.images[0].get_clim()
    texts = [text.get_text() for panel in (left, right) for text in panel.texts]
    assert len(texts) == 8
    assert texts[0].endswith("\n1 div.")
    assert texts[-1] == "-\n1 div."
    assert texts[1] == f"{results.cells[1].final_value.mean:.3f}"
