"""What the command promises whatever the task: parts are kept, and a mistake is told once."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import CheckpointError, UsageError
from pipeline.evaluation import evaluate as command
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.evaluate import evaluate, resolve_settings
from pipeline.evaluation.results import content_sha256, read_evaluations
from pipeline.evaluation.table import render_table
from pipeline.evaluation.task import Measured, Settings, Summary, Task


class Letters:
    """A task whose parts are letters; it notes what it measures, and stops where it is told to."""

    units = ("a", "b", "c")

    def __init__(self, stop_at: str | None) -> None:
        self.measured: list[str] = []
        self.stop_at = stop_at

    def measure(self, unit: str) -> Measured:
        if unit == self.stop_at:
            raise KeyboardInterrupt
        self.measured.append(unit)
        return {"place": ord(unit)}

    def summarize(self, measured: dict[str, Measured]) -> Summary:
        total = sum(result["place"] for result in measured.values())
        return Summary({"total": total}, ["letters", "total"], [["abc", float(total)]])


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch):
    def put(letters: Letters, **task: object) -> Letters:
        made = Task(data=None, begin=lambda encoder, settings: letters, optional=["limit"], **task)
        monkeypatch.setattr(command, "load_task", lambda name: made)
        return letters

    return put


def test_interrupted_evaluation_goes_on_where_it_was(model_dir, use, capsys):
    use(Letters(stop_at="c"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(str(model_dir), "letters", {})
    cut_short = read_evaluations(model_dir / "evaluation" / "letters.json")
    assert [(list(entry["units"]), entry["numbers"]) for entry in cut_short] == [(["a", "b"], None)]
    letters = use(Letters(stop_at=None))
    summary = evaluate(str(model_dir), "letters", {})
    assert letters.measured == ["c"]
    assert summary.numbers == {"total": 294}
    assert "294" in capsys.readouterr().out
    again = use(Letters(stop_at="a"))
    assert evaluate(str(model_dir), "letters", {}) == summary
    assert again.measured == []


def test_other_settings_and_weights_are_measured_anew_and_stand_beside(model_dir, use):
    for given in ({}, {"limit": 3}):
        letters = use(Letters(stop_at=None))
        evaluate(str(model_dir), "letters", given)
        assert letters.measured == ["a", "b", "c"]
    (model_dir / "model.safetensors").write_bytes(b"other weights")
    assert use(Letters(stop_at=None)).measured == []
    evaluate(str(model_dir), "letters", {})
    entries = read_evaluations(model_dir / "evaluation" / "letters.json")
    assert len(entries) == 3
    assert all(entry["numbers"] == {"total": 294} for entry in entries)


def test_damaged_results_are_named_and_left_alone(model_dir, use):
    use(Letters(stop_at=None))
    file = model_dir / "evaluation" / "letters.json"
    file.parent.mkdir()
    file.write_text('{"evaluations": ')
    with pytest.raises(CheckpointError, match=r"letters\.json is damaged"):
        evaluate(str(model_dir), "letters", {})
    assert file.read_text() == '{"evaluations": '


def test_settings_a_task_does_not_take_are_refused():
    task = Task(data="a directory", begin=lambda encoder, settings: Letters(None), defaults={"seeds": 3})
    with pytest.raises(UsageError, match="--limit: task 't' does not take this; it takes --data, --seeds"):
        resolve_settings("t", task, {"limit": 3})
    with pytest.raises(UsageError, match="task 't' needs --data: a directory"):
        resolve_settings("t", task, {})
    with pytest.raises(UsageError, match="--data /nowhere does not exist"):
        resolve_settings("t", task, {"data": Path("/nowhere")})
    assert resolve_settings("t", task, {"data": Path("/"), "seeds": 5}) == Settings(data=Path("/"), seeds=5)
    assert resolve_settings("t", task, {"data": Path("/")}).seeds == 3


def test_neither_run_nor_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds neither a run .* nor a Hugging Face model"):
        Encoder.open(str(tmp_path), torch.device("cpu"))


def test_model_without_tokenizer_is_refused(model_dir):
    encoder = Encoder.open(str(model_dir), torch.device("cpu"))
    with pytest.raises(UsageError, match=r"model has no tokenizer \(no tokenizer\.json or"):
        _ = encoder.tokenizer


def test_content_hash_depends_on_names_and_bytes_not_on_where(tmp_path):
    hashes = set()
    for name, files in {"a": {"x": "1"}, "b": {"x": "1"}, "c": {"y": "1"}, "d": {"x": "2"}}.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        hashes.add(content_sha256(tmp_path / name))
    assert len(hashes) == 3


def test_table_aligns_numbers_and_adds_notes():
    summary = Summary({}, ["part", "score"], [["long name", 0.123456], ["b", None]], ["a note"])
    assert render_table(summary) == ("  part        score\n  long name  0.1235\n  b               -\na note")


def test_results_are_plain_json_whatever_was_measured(model_dir, use):
    letters = use(Letters(stop_at=None))
    letters.measure = lambda unit: {"place": float("nan") if unit == "a" else 1.0}
    letters.summarize = lambda measured: Summary({"bad": float("inf")}, ["x"], [[None]])
    evaluate(str(model_dir), "letters", {})
    text = (model_dir / "evaluation" / "letters.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["evaluations"][0]["numbers"] == {"bad": None}
