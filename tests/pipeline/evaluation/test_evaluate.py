"""What the command promises whatever the task: parts are kept, and a mistake is told once."""

import errno
import fcntl
import json
import threading
from pathlib import Path

import pytest
import torch

from pipeline.errors import CheckpointError, UsageError
from pipeline.evaluation import evaluate as command
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.evaluate import evaluate, resolve_settings
from pipeline.evaluation.results import Results, content_sha256, newest_numbers, read_evaluations
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
    def put(letters: Letters, text: str | None = None, **task: object) -> Letters:
        made = Task(data=text, begin=lambda encoder, settings: letters, optional=["limit"], **task)
        monkeypatch.setattr(command, "load_task", lambda name: made)
        return letters

    return put


def test_interrupted_evaluation_goes_on_where_it_was(model_dir, use, capsys):
    use(Letters(stop_at="c"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(str(model_dir), "letters", {})
    cut_short = read_evaluations(model_dir / "evaluation" / "letters.json")
    assert [(list(entry["units"]), newest_numbers(entry)) for entry in cut_short] == [(["a", "b"], None)]
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
    letters = use(Letters(stop_at=None))
    evaluate(str(model_dir), "letters", {})
    assert letters.measured == ["a", "b", "c"]
    entries = read_evaluations(model_dir / "evaluation" / "letters.json")
    assert len(entries) == 3
    assert all(newest_numbers(entry) == {"total": 294} for entry in entries)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model-2.safetensors", "config.json", "tokenizer.json", "merges.txt"]
)
def test_identity_is_that_of_weights_configuration_and_tokenizer(model_dir, name):
    encoder = Encoder.open(str(model_dir), torch.device("cpu"))
    (model_dir / name).write_text('{"a": 1}')
    before = encoder.identity()
    (model_dir / "README.md").write_text("of no account")
    assert encoder.identity() == before
    (model_dir / name).write_text('{"a": 2}')
    assert encoder.identity() != before


def test_figures_of_some_parts_stand_beside_those_of_all(model_dir, use):
    use(Letters(stop_at=None), defaults={"only": None})
    evaluate(str(model_dir), "letters", {})
    evaluate(str(model_dir), "letters", {"only": ["a", "c"]})
    file = model_dir / "evaluation" / "letters.json"
    (entry,) = read_evaluations(file)
    assert entry["summaries"] == [
        {"units": ["a", "b", "c"], "numbers": {"total": 294}},
        {"units": ["a", "c"], "numbers": {"total": 196}},
    ]
    assert newest_numbers(entry) == {"total": 196}
    evaluate(str(model_dir), "letters", {})
    (entry,) = read_evaluations(file)
    assert [len(one["units"]) for one in entry["summaries"]] == [2, 3]


def test_evaluations_at_the_same_time_keep_each_others_parts(tmp_path):
    file = tmp_path / "letters.json"
    first, second = (Results(file, "letters", {"step": 1}, {}) for _ in range(2))
    other = Results(file, "letters", {"step": 2}, {})
    for results, unit in ((first, "a"), (other, "a"), (second, "b"), (first, "c")):
        results.add(unit, {"place": ord(unit)})
    kept = {entry["of"]["step"]: list(entry["units"]) for entry in read_evaluations(file)}
    assert kept == {1: ["a", "b", "c"], 2: ["a"]}
    assert list(first.units) == ["a", "b", "c"]


def test_a_write_waits_for_the_one_that_is_going_on(tmp_path):
    results = Results(tmp_path / "letters.json", "letters", {}, {})
    results.add("a", {})
    with (tmp_path / ".letters.json.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=results.add, args=("b", {}))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert list(read_evaluations(results.path)[0]["units"]) == ["a"]
    thread.join(10)
    assert list(read_evaluations(results.path)[0]["units"]) == ["a", "b"]


def test_results_are_kept_where_there_are_no_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    Results(tmp_path / "letters.json", "letters", {}, {}).add("a", {"place": 97})
    assert read_evaluations(tmp_path / "letters.json")[0]["units"] == {"a": {"place": 97}}


def test_a_part_that_another_process_measured_meanwhile_is_not_measured_again(model_dir, use):
    letters = use(Letters(stop_at=None))
    file = model_dir / "evaluation" / "letters.json"
    identity = Encoder.open(str(model_dir), torch.device("cpu")).identity()
    measure = letters.measure

    def disturbed(unit):
        if unit == "a":
            Results(file, "letters", identity, {}).add("b", {"place": ord("b")})
        return measure(unit)

    letters.measure = disturbed
    evaluate(str(model_dir), "letters", {})
    assert letters.measured == ["a", "c"]


def test_machine_is_that_of_the_measuring_not_of_the_summing_up(model_dir, use, monkeypatch):
    use(Letters(stop_at="c"))
    for number in range(3):
        monkeypatch.setattr("pipeline.evaluation.results.describe_machine", lambda n=number: {"device": n})
        if number == 0:
            with pytest.raises(KeyboardInterrupt):
                evaluate(str(model_dir), "letters", {})
            use(Letters(stop_at=None))
        else:
            evaluate(str(model_dir), "letters", {})
    (entry,) = read_evaluations(model_dir / "evaluation" / "letters.json")
    assert {unit: machine["device"] for unit, machine in entry["machines"].items()} == {
        "a": 0,
        "b": 0,
        "c": 1,
    }


def test_parts_of_the_data_are_told_apart(tmp_path):
    """Parts not read before join an evaluation; other contents of one begin another evaluation."""
    file = tmp_path / "glue.json"
    Results(file, "glue", {"limit": 3}, {"RTE": "1"}).add("RTE/seed-0", {})
    both = Results(file, "glue", {"limit": 3}, {"RTE": "1", "WNLI": "2"})
    assert list(both.units) == ["RTE/seed-0"]
    both.add("WNLI/seed-0", {})
    assert list(Results(file, "glue", {"limit": 3}, {"WNLI": "2"}).units) == ["RTE/seed-0", "WNLI/seed-0"]
    assert list(Results(file, "glue", {"limit": 3}, {"WNLI": "3"}).units) == []
    assert list(Results(file, "glue", {"limit": 4}, {"WNLI": "2"}).units) == []
    assert [entry["of"]["data_sha256"] for entry in read_evaluations(file)] == [{"RTE": "1", "WNLI": "2"}]


def test_only_the_files_a_task_reads_are_its_data(model_dir, use, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("1")

    def measured(**given):
        letters = use(
            Letters(stop_at=None),
            text="a directory",
            sources=lambda settings: {"a": [settings.data / "a.txt"]},
        )
        evaluate(str(model_dir), "letters", {"data": data, **given}, str(data / "out"))
        return len(letters.measured)

    assert measured() == 3
    (data / ".DS_Store").write_text("hidden")
    (data / "b.txt").write_text("another set")
    assert measured() == 0
    (data / "a.txt").write_text("2")
    assert measured() == 3


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
    for directory, name, text in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / name).write_text(text)
        hashes.add(content_sha256([tmp_path / directory / name]))
    assert len(hashes) == 3
    files = [tmp_path / "a" / "x", tmp_path / "c" / "y"]
    assert content_sha256(files) == content_sha256(files[::-1])


def test_table_aligns_numbers_and_adds_notes():
    summary = Summary({}, ["part", "score"], [["long name", 0.123456], ["b", None]], ["a note"])
    assert render_table(summary) == ("  part        score\n  long name  0.1235\n  b               -\na note")


def test_long_notes_are_wrapped_and_stay_indented():
    note = "  " + " ".join(["word"] * 60)
    _, *lines = render_table(Summary({}, ["x"], [], [note])).splitlines()
    assert len(lines) == 3
    assert all(len(line) <= 110 and line.startswith("  word") for line in lines)
    assert " ".join(line.strip() for line in lines) == note.strip()


def test_results_are_plain_json_whatever_was_measured(model_dir, use):
    letters = use(Letters(stop_at=None))
    letters.measure = lambda unit: {"place": float("nan") if unit == "a" else 1.0}
    letters.summarize = lambda measured: Summary({"bad": float("inf")}, ["x"], [[None]])
    evaluate(str(model_dir), "letters", {})
    text = (model_dir / "evaluation" / "letters.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["evaluations"][0]["summaries"][0]["numbers"] == {"bad": None}
