"""Every task on a real run, by its command: on examples made here, and on slices of real data where it is."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.evaluation.tasks import TASKS
from tests.e2e.running import last_evaluation, overrides, train

ONCE = ["--seeds", "1", "--epochs", "1"]
MARKS = {"good": ("fine", "lovely", "great"), "bad": ("poor", "awful", "dull")}


@pytest.fixture(scope="module")
def run_dir(recipe_file, tmp_path_factory) -> Path:
    recipe = recipe_file(train={"num_steps": 2})
    path = tmp_path_factory.mktemp("tasks") / "run"
    finished = train(recipe, *overrides(run_dir=path))
    assert finished.code == 0, finished.output
    return path


def write_blimp(path: Path) -> None:
    texts = {"sentence_good": "It works.", "sentence_bad": "It work."}
    line = {**texts, "linguistics_term": "agreement", "field": "syntax", "UID": "verbs"}
    (path / "verbs.jsonl").write_text(json.dumps(line))


def write_glue(path: Path) -> None:
    (path / "SST-2").mkdir()
    rows = [f"a {word} film\t{label}" for label, words in enumerate(MARKS.values()) for word in words]
    for split in ("train", "dev"):
        (path / "SST-2" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")


def write_classify(path: Path) -> None:
    rows = [f"{label}\tthe {word} one" for label, words in MARKS.items() for word in words]
    for split in ("train", "dev"):
        (path / f"{split}.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")


def write_tag(path: Path) -> None:
    for split in ("train", "dev"):
        (path / f"{split}.txt").write_text("Ada B-PER\nLovelace I-PER\nwrote O\n\nin O\nTurin B-LOC\n")


def write_ood(path: Path) -> None:
    known = [
        [f"{word} {place}", label] for label, words in MARKS.items() for word in words for place in "abcd"
    ]
    foreign = [[f"{number} and {number + 1}", "oos"] for number in range(12)]
    names = {"train": known, "val": known, "test": known}
    (path / "data_full.json").write_text(json.dumps({**names, **{f"oos_{name}": foreign for name in names}}))


MADE: dict[str, tuple[Callable[[Path], None] | None, list[str]]] = {
    "held_out": (None, ["--limit", "8"]),
    "probe": (None, ["--limit", "5", "--only", "patterns"]),
    "blimp": (write_blimp, []),
    "glue": (write_glue, ONCE),
    "classify": (write_classify, ONCE),
    "tag": (write_tag, ONCE),
    "ood": (write_ood, ONCE),
}
DOCS = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
FIGURES = dict(re.findall(r"^\| `(\w+)` \|.*\| `([^`]+)`[^|]*\|$", DOCS, re.MULTILINE))


def test_every_task_is_tried_here():
    assert MADE.keys() == FIGURES.keys() == TASKS.keys()


@pytest.mark.parametrize("task", TASKS)
def test_task_of_a_run(task, run_dir, tmp_path, capsys, monkeypatch):
    write, settings = MADE[task]
    command = ["evaluate", str(run_dir), "--task", task, *settings]
    if write is not None:
        write(tmp_path)
        command += ["--data", str(tmp_path)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{task} of {run_dir}, step 2")
    found = last_evaluation(run_dir, task)
    assert found["of"]["step"] == 2
    assert found["numbers"][FIGURES[task]] is not None
    # Everything is there already.
    monkeypatch.setattr("pipeline.evaluation.results.Results.add", None)
    results = run_dir / "evaluation" / f"{task}.json"
    before = results.read_bytes()
    assert main(command) == 0
    assert capsys.readouterr().out == told
    assert results.read_bytes() == before


def test_probe_of_a_run_looks_at_its_held_out_rows_and_tokens(run_dir):
    assert main(["evaluate", str(run_dir), "--task", "probe", "--limit", "5", "--only", "patterns"]) == 0
    found = last_evaluation(run_dir, "probe")
    assert found["units"]["patterns"]["text"] == "held-out rows"
    assert found["units"]["patterns"]["num_rows"] == 5
    assert found["units"]["patterns"]["mass"]["sentence_ends"] is not None
    assert 0 < found["numbers"]["entropy/relative"] <= 1
    assert (run_dir / "evaluation" / "probe.png").is_file()


@pytest.mark.parametrize(
    ("task", "data", "settings"),
    [
        ("blimp", "blimp", ["--limit", "5", "--only", "inchoative"]),
        ("glue", "glue", ["--limit", "32", "--only", "WNLI", "--only", "STS-B", *ONCE]),
        ("classify", "masakhanews/yor", ["--limit", "32", *ONCE]),
        ("tag", "masakhaner2_yor", ["--limit", "32", *ONCE]),
        ("ood", "clinc150", ["--limit", "300", *ONCE]),
    ],
)
def test_task_on_a_slice_of_real_data(task, data, settings, run_dir, shared_data, capsys):
    command = ["evaluate", str(run_dir), "--task", task, "--data", str(shared_data(data)), *settings]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(f"{task} of {run_dir}")
    numbers = last_evaluation(run_dir, task)["numbers"]
    assert numbers
    assert all(
        number is None or -1 <= number <= 1 or "half_width" in name for name, number in numbers.items()
    )
