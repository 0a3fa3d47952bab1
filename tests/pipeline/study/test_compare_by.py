"""What decides a study: read from a command line, and its mistakes told with the nearest name."""

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.study.compare_by import parse_measure
from pipeline.study.measure import HELD_OUT_LOSS, Measure


def test_the_held_out_loss_is_what_decides_unless_another_figure_is_named():
    assert parse_measure(["loss"]) == HELD_OUT_LOSS
    assert HELD_OUT_LOSS.is_loss
    assert HELD_OUT_LOSS.name == "held-out loss"


def test_known_figures_have_a_direction_and_a_unit():
    found = parse_measure(["accuracy", "at=time"])
    assert found == Measure(figure="accuracy", unit="share of predicted tokens", better="higher", at="time")
    assert found.label == "held-out accuracy\n(share of predicted tokens)"
    assert not found.is_loss
    assert parse_measure(["loss", "at=steps"]).is_loss


def test_other_figures_are_told_both():
    found = parse_measure(["detector_auc", "better=higher", "unit=area under the curve"])
    assert (found.better, found.unit, found.sign) == ("higher", "area under the curve", -1.0)
    assert parse_measure(["detector_loss", "better=lower"]).unit == "as metrics.jsonl has it"


def test_a_task_has_settings(tmp_path: Path):
    data = tmp_path / "blimp"
    data.mkdir()
    words = ["accuracy/islands", "task=blimp", f"data={data}", "limit=200", "only=[a, b]"]
    found = parse_measure(words)
    settings = {"data": str(data), "limit": 200, "only": ["a", "b"]}
    expected = Measure(
        figure="accuracy/islands", unit="share", better="higher", task="blimp", settings=settings
    )
    assert found == expected
    assert found.name == "blimp accuracy/islands"
    assert parse_measure([*words[:3], "only=a"]).settings["only"] == ["a"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task=blimp"], "write the name of a figure first"),
        (["accuracy", "higher"], r"--compare-by higher: write KEY=VALUE"),
        (["accuracy", "better=["], "cannot be read as YAML"),
        (["auc"], r"--compare-by auc: .*write better=lower or better=higher"),
        (["accuracy", "better=hihger"], r"better=hihger: did you mean 'higher'\?"),
        (["accuracy", "at=tme"], r"at=tme: did you mean 'time'\?"),
        (["accuracy", "beter=higher"], r"beter=: .*did you mean 'better'\?"),
        (["accuracy", "task=blmip"], r"task=blmip: no such task; did you mean 'blimp'\?"),
        (["accuracy", "task=xxxxxx"], "no such task; there is held_out, glue"),
        (
            ["accuracy", "task=blimp", "data=DATA", "limt=2"],
            r"'blimp' does not take this; did you mean 'limit'",
        ),
        (["accuracy", "task=mlm", "batch_size=2"], r"'held_out' does not take this"),
        (["accuracy", "task=blimp", "data=DATA", "limit=many"], r"limit=many: .*integer"),
        (["accuracy", "task=blimp", "data=DATA", "limit=0"], "limit=0: write a number above 0"),
        (["accuracy", "task=blimp"], "task=blimp: write data=PATH, a directory of paradigms"),
        (["accuracy", "task=blimp", "data=nowhere"], r"nowhere does not exist; write data=PATH"),
        (["accuracy", "task=blimp", "data=DATA", "at=time"], "a task is measured on the final weights only"),
    ],
)
def test_what_is_wrong_is_told_in_one_error(words: list[str], told: str, tmp_path: Path):
    with pytest.raises(UsageError, match=told):
        parse_measure([word.replace("DATA", str(tmp_path)) for word in words])
