"""Which runs a command line asks for, and what each is compared with."""

import pytest

from pipeline.errors import UsageError
from pipeline.study.grid import ARMS, make_grid


def test_every_combination_is_a_cell_and_the_first_choice_the_baseline():
    grid = make_grid([], ["guidance.weight=0,7", "model.num_layers=4,12,16"], first_seed=5, num_seeds=2)
    cells = grid.cells()
    assert grid.seeds == (5, 6)
    assert [cell.labels for cell in cells] == [
        (weight, layers) for weight in ("0", "7") for layers in ("4", "12", "16")
    ]
    assert cells[4].settings == {"guidance.weight": 7, "model.num_layers": 12}
    assert cells[4].name == "weight=7,num_layers=12"
    assert grid.baseline_of(cells[4]) == cells[1]
    assert grid.baseline_of(cells[1]) == cells[1]


def test_values_are_those_of_a_recipe():
    (axis,) = make_grid([], ["a.b=1e-4, null, true, {next: 1, first: 2}, formed"], 0, 1).axes
    assert [settings["a.b"] for settings in axis.settings] == [
        1e-4,
        None,
        True,
        {"next": 1, "first": 2},
        "formed",
    ]
    assert axis.labels == ("0.0001", "null", "true", "next 1 first 2", "formed")


def test_arms_are_the_first_axis_and_their_names_the_directories():
    arms = [
        ["unguided", "guidance.weight=0"],
        ["plain"],
        ["next only", "guidance.heads={next: 3}", "seed2=1"],
    ]
    grid = make_grid(arms, ["optimizer.learning_rate=1e-4,3e-4"], 0, 1)
    assert [axis.name for axis in grid.axes] == [ARMS, "optimizer.learning_rate"]
    cell = grid.cells()[-1]
    assert cell.name == "next-only,learning_rate=0.0003"
    assert cell.settings == {
        "guidance.heads": {"next": 3},
        "seed2": 1,
        "optimizer.learning_rate": 3e-4,
    }
    assert grid.baseline_of(cell).labels == ("unguided", "0.0003")


@pytest.mark.parametrize(
    ("arms", "variations", "message"),
    [
        ([], [], "nothing is compared"),
        ([], ["guidance.weight"], "write KEY=VALUE,VALUE"),
        ([], ["guidance.weight=7"], "write KEY=VALUE,VALUE"),
        ([], ["guidance.weight=7,7.0"], "a value is there twice"),
        ([], ["guidance.heads={next: 1},{next: 2"], "cannot be read as YAML"),
        ([], ["a.b=1,2", "a.b=3,4"], "a.b is on two axes"),
        ([["x", "a.b=1"], ["y"]], ["a.b=3,4"], "a.b is on two axes"),
        ([], ["seed=1,2"], "write --seeds N"),
        ([["x"], ["x", "a=1"]], [], "--arm x: the name is there twice"),
        ([["x", "a"], ["y"]], [], "--arm x a: write KEY=VALUE"),
        ([["x"]], ["a.b=1,2"], "nothing to compare it with"),
        ([["x"], [".."]], [], "names no directory"),
        ([["***"], ["x"]], [], "names no directory"),
        ([["a b"], ["a-b"]], [], "two cells would share the directory 'a-b'"),
    ],
)
def test_a_mistake_is_told(arms, variations, message):
    with pytest.raises(UsageError, match=message):
        make_grid(arms, variations, 0, 1)
