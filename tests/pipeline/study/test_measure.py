"""Studies that another figure than the held-out loss decides: from run directories to tables and figures."""

import json
from pathlib import Path
from typing import Any

import pytest

import pipeline.study.task_score
from pipeline.errors import CheckpointError, UsageError
from pipeline.evaluation.task import Summary
from pipeline.study.comparison import compare_runs, paired_difference, sensitivity_of
from pipeline.study.curve_figure import draw_curves
from pipeline.study.figures import draw_difference, draw_sensitivity, draw_speed, draw_study
from pipeline.study.grid import Grid
from pipeline.study.measure import HELD_OUT_LOSS, Measure
from pipeline.study.results import StudyResults, read_results
from pipeline.study.table import render_study
from pipeline.study.task_score import score_run
from pipeline.study.write import write_study
from tests.pipeline.study.synthetic import curve_of, make_grid, write_run
from tests.pipeline.study.test_results import cell_of, row_of

ACCURACY = Measure(figure="accuracy", unit="share of predicted tokens", better="higher")
BLIMP = Measure(
    figure="accuracy", unit="share", better="higher", task="blimp", settings={"data": "d", "limit": 9}
)
ARMS = {"arm": ["off", "on"]}


def write_arms(study_dir: Path, finals: dict[str, list[float | None]], seconds: dict[str, float]) -> Grid:
    """Runs of 40 steps, evaluated twice; the loss falls alike, the accuracy rises to the given value."""
    grid = make_grid(ARMS, seeds=tuple(range(len(finals["off"]))))
    for cell in grid.cells():
        for seed, final in zip(grid.seeds, finals[cell.labels[0]]):
            train = [{"step": step, "step_seconds": seconds[cell.labels[0]]} for step in (20, 40)]
            valid = [
                {
                    "step": 20,
                    "loss": 6.0,
                    "accuracy": 0.1,
                    "perplexity": 400.0,
                    "guidance_mass": {"next": [1]},
                },
                {"step": 40, "loss": 5.0, "accuracy": final, "perplexity": 150.0},
            ]
            write_run(study_dir / "runs" / cell.name / f"seed-{seed}", train, valid)
    return grid


def column_of(text: str, name: str, *labels: str) -> str:
    header = next(line for line in text.splitlines() if line.startswith("|"))
    names = [field.strip() for field in header.split("|")[1:-1]]
    return row_of(text, *labels)[names.index(name)]


# A figure of the held-out lines


def test_a_figure_of_the_held_out_lines_decides(tmp_path):
    grid = write_arms(tmp_path, {"off": [0.3, 0.3], "on": [0.4, 0.5]}, {"off": 1.0, "on": 1.0})
    results = write_study(tmp_path, grid, unigram_loss=6.9, measure=ACCURACY)

    cell = cell_of(results, "on")
    assert cell.difference.mean == pytest.approx(0.15)
    assert (cell.difference.num_higher, cell.difference.num_lower) == (2, 0)
    # The target 0.3 is two thirds, and half, of the way from 0.1 at step 20 to the end.
    assert [run.comparison.steps for run in cell.runs] == pytest.approx([20 + 20 * 2 / 3, 30])
    assert results.unigram_loss is None
    assert results.arms["on"].best == results.arms["on"].worst == pytest.approx(0.45)
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("Final held-out accuracy (share of predicted tokens) and difference from the base")
    assert column_of(text, "final accuracy", "on") == "0.4500 ± 0.0707"
    assert column_of(text, "higher", "on") == "2 of 2"
    assert "above zero is better" in text
    assert "The target is the baseline's final accuracy" in text
    written = json.loads((tmp_path / "study_results.json").read_text())
    assert written["measure"] == {
        "figure": "accuracy", "unit": "share of predicted tokens", "better": "higher", "at": "end",
        "task": None, "settings": {},
    }  # fmt: skip
    assert [run["curve"]["values"] for run in written["cells"][1]["runs"]] == [[0.1, 0.4], [0.1, 0.5]]
    assert read_results(tmp_path) == results


def test_figures_say_what_was_compared(tmp_path):
    grid = write_arms(tmp_path, {"off": [0.3, 0.3], "on": [0.4, 0.5]}, {"off": 1.0, "on": 1.0})
    results = write_study(tmp_path, grid, measure=ACCURACY)

    curves = draw_curves(results).axes[0]
    assert curves.get_ylabel() == "held-out accuracy\n(share of predicted tokens)"
    assert curves.get_ylim() == pytest.approx((0.08, 0.52))
    assert draw_speed(results).axes[0].get_ylabel().startswith("steps to the baseline's final accuracy")
    told = draw_difference(results).axes[0].get_ylabel()
    assert (
        told == "final held-out accuracy minus the\nbaseline's (share of predicted tokens; higher is better)"
    )
    assert draw_sensitivity(results).axes[0].get_ylabel().startswith("final held-out accuracy")


def test_collapse_of_a_figure_does_not_flatten_the_others(tmp_path):
    grid = write_arms(tmp_path, {"off": [0.3], "on": [0.4]}, {"off": 1.0, "on": 1.0})
    path = tmp_path / "runs" / "on" / "seed-0" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines.insert(3, {"kind": "valid", "step": 30, "loss": 9.0, "accuracy": -50.0})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    panel = draw_curves(write_study(tmp_path, grid, measure=ACCURACY)).axes[0]

    assert panel.get_ylim()[0] > 0


def test_equal_time_and_equal_steps_decide_if_asked(tmp_path):
    """The other arm takes twice as long for a step: it has trained as long as its baseline at step 20."""
    grid = write_arms(tmp_path, {"off": [0.3, 0.32], "on": [0.4, 0.5]}, {"off": 1.0, "on": 2.0})
    texts = {}
    for at in ("end", "steps", "time"):
        measure = Measure(figure="accuracy", unit="share", better="higher", at=at)
        results = write_study(tmp_path, grid, measure=measure)
        texts[at] = render_study(results)
        (points,) = [line for line in draw_difference(results).axes[0].lines if line.get_marker() == "o"]
        expected = [-0.2, -0.22] if at == "time" else [0.1, 0.18]
        assert list(points.get_ydata()) == pytest.approx(expected)

    assert [column_of(text, "difference", "on") for text in texts.values()] == [
        "+0.1400",
        "+0.1400",
        "-0.2100",
    ]
    assert [column_of(text, "higher", "on") for text in texts.values()] == ["2 of 2", "2 of 2", "0 of 2"]
    assert column_of(texts["end"], "at equal time", "on") == "-0.2100"
    assert column_of(texts["time"], "at the end", "on") == "+0.1400"
    assert "difference from the baseline at equal training time:" in texts["time"]
    assert "difference from the baseline at equal steps:" in texts["steps"]


def test_equal_steps_are_those_of_the_baseline():
    longer = curve_of([6.0, 5.0, 4.0, 3.0])
    compared = compare_runs(longer, curve_of([6.0, 5.5]))
    assert compared.value_at_equal_steps == 5.0
    assert compared.difference == -2.5
    assert compare_runs(curve_of([6.0]), longer).value_at_equal_steps == 6.0
    diverged = curve_of([6.0, 5.0], state="diverged")
    assert compare_runs(diverged, longer).value_at_equal_steps is None


def test_the_best_cell_is_the_highest_where_that_is_better():
    cells = [[curve_of([7.0, 7.0], values=(0.0, final))] for final in (0.2, 0.5, 0.4)]
    found = sensitivity_of(cells, None, ACCURACY)
    assert (found.best, found.median, found.worst) == (0.5, 0.4, 0.2)


def test_a_baseline_of_zero_has_no_percent():
    assert paired_difference([(0.5, 0.1), (-0.5, 0.2)]).relative_percent is None
    assert paired_difference([(-0.5, -0.25)]).relative_percent == 50.0  # up is plus, below zero too


def test_a_figure_that_is_not_finite_in_the_end_is_told(tmp_path):
    grid = write_arms(tmp_path, {"off": [0.3, 0.3], "on": [0.4, None]}, {"off": 1.0, "on": 1.0})
    text = render_study(write_study(tmp_path, grid, measure=ACCURACY))
    assert column_of(text, "runs", "on") == "1 of 2"
    assert "1 run is finished and without a finite held-out accuracy, in no mean." in text


@pytest.mark.parametrize(
    ("figure", "told"),
    [
        ("acuracy", r"no such figure; did you mean 'accuracy'\?"),
        ("zzz", r"no such figure; there is loss, accuracy, perplexity$"),
    ],
)
def test_a_figure_that_runs_do_not_have_is_told(figure, told, tmp_path):
    grid = write_arms(tmp_path, {"off": [0.3], "on": [0.4]}, {"off": 1.0, "on": 1.0})
    with pytest.raises(UsageError, match=told):
        write_study(tmp_path, grid, measure=Measure(figure=figure, unit="", better="lower"))
    assert not (tmp_path / "study_results.json").exists()


# A task


def scored(study_dir: Path, grid: Grid, scores: dict[str, float | None]) -> StudyResults:
    asked = []

    def score_of(path: Path, last_step: int) -> float | None:
        asked.append((path.parent.name, last_step))
        return scores[path.parent.name]

    results = write_study(study_dir, grid, 6.9, BLIMP, score_of)
    assert asked == [(name, 40) for name in scores for _ in grid.seeds]
    return results


def test_a_task_decides(tmp_path):
    grid = write_arms(tmp_path, {"off": [0.3, 0.3], "on": [0.4, 0.5]}, {"off": 1.0, "on": 1.0})
    write_study(tmp_path, grid)
    results = scored(tmp_path, grid, {"off": 0.6, "on": 0.75})

    cell = cell_of(results, "on")
    assert cell.difference.mean == pytest.approx(0.15)
    assert (cell.difference_at_equal_seconds, cell.difference_at_equal_steps) == (None, None)
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("Final blimp accuracy (share) and difference from the baseline:")
    assert column_of(text, "final accuracy", "on") == "0.7500 ± 0.0000"
    assert "to target" not in text
    assert "Task blimp of `evaluate` with data d, limit 9, on the weights at a run's end." in text
    assert read_results(tmp_path) == results
    # Of the study by loss that was there before, nothing is left that could be taken for this one's.
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "curves.png",
        "sensitivity.png",
        "difference.png",
    }
    assert draw_curves(results).axes[0].get_ylabel().startswith("held-out loss")
    assert draw_difference(results).axes[0].get_ylabel().startswith("final blimp accuracy")


def test_only_finished_runs_are_measured(tmp_path):
    grid = write_arms(tmp_path, {"off": [0.3], "on": [0.4]}, {"off": 1.0, "on": 1.0})
    metrics = tmp_path / "runs" / "on" / "seed-0" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    asked = []

    def score_of(path: Path, _last_step: int) -> float:
        asked.append(path.parent.name)
        return 0.5

    results = write_study(tmp_path, grid, None, BLIMP, score_of)

    assert asked == ["off"]
    assert cell_of(results, "on").difference is None
    draw_study(tmp_path, results)


def fake_evaluation(monkeypatch: pytest.MonkeyPatch, numbers: dict[str, float], step: int) -> list[Any]:
    """In the place of `evaluate`: writes what it does and gives the numbers."""
    calls: list[Any] = []

    def evaluate(path: str, task: str, given: dict[str, Any], corpora: tuple[str, ...]) -> Summary:
        calls.append((path, task, given, corpora))
        directory = Path(path) / "evaluation"
        directory.mkdir(exist_ok=True)
        entries = [{"of": {"step": 1}}, {"of": {"step": step}}]
        (directory / f"{task}.json").write_text(json.dumps({"task": task, "evaluations": entries}))
        print("a table")
        return Summary(numbers, [], [])

    monkeypatch.setattr(pipeline.study.task_score, "evaluate", evaluate)
    return calls


def test_a_run_is_scored_by_evaluate(tmp_path, monkeypatch, capsys):
    calls = fake_evaluation(monkeypatch, {"accuracy": 0.625}, 40)
    assert score_run(tmp_path, 40, BLIMP, ("corpus",)) == 0.625
    assert calls == [(str(tmp_path), "blimp", {"data": Path("d"), "limit": 9}, ("corpus",))]
    assert capsys.readouterr().out == f"blimp accuracy of {tmp_path}: 0.6250\n"
    fake_evaluation(monkeypatch, {"accuracy": float("nan")}, 40)
    assert score_run(tmp_path, 40, BLIMP) is None


def test_a_number_that_the_task_does_not_give_is_told(tmp_path, monkeypatch):
    fake_evaluation(monkeypatch, {"accuracy": 0.5, "accuracy/islands": 0.5}, 40)
    wrong = Measure(figure="accuracy/island", unit="", better="higher", task="blimp")
    with pytest.raises(UsageError, match=r"gives no such number; did you mean 'accuracy/islands'\?"):
        score_run(tmp_path, 40, wrong)


def test_weights_of_another_step_are_not_compared(tmp_path, monkeypatch):
    fake_evaluation(monkeypatch, {"accuracy": 0.5}, 20)
    with pytest.raises(CheckpointError, match=r"newest good checkpoint is of step 20, and .* to step 40"):
        score_run(tmp_path, 40, BLIMP)


def test_results_without_a_measure_are_of_the_held_out_loss(tmp_path):
    grid = write_arms(tmp_path, {"off": [0.3], "on": [0.4]}, {"off": 1.0, "on": 1.0})
    results = write_study(tmp_path, grid, 6.9)
    path = tmp_path / "study_results.json"
    assert json.loads(path.read_text())["measure"]["figure"] == "loss"
    old = json.loads(path.read_text())
    del old["measure"]
    text = json.dumps(old)
    for new in ("final_value", "baseline_value", "value_at_equal_seconds"):
        text = text.replace(f'"{new}"', f'"{new.replace("value", "loss")}"')
    path.write_text(text)

    assert read_results(tmp_path) == results
    assert results.measure == HELD_OUT_LOSS
