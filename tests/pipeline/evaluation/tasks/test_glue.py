import statistics

import pytest

from pipeline.errors import DataError, UsageError
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.results import read_evaluations
from pipeline.evaluation.tasks import glue
from pipeline.evaluation.tasks.glue import TASK, Glue
from tests.pipeline.evaluation.toy_texts import toy_texts, write_sst2

QUICK = {"epochs": 6.0, "learning_rate": 3e-3, "batch_size": 16}


def write_stsb(directory):
    (directory / "STS-B").mkdir(parents=True)
    for split in ("train", "dev"):
        rows = "".join(f"{text}\t{text}\t{4 * label}\n" for text, label in toy_texts(32, seed=3))
        (directory / "STS-B" / f"{split}.tsv").write_text("sentence1\tsentence2\tscore\n" + rows)


def result(score, baseline=0.5):
    return {"score": score, "baseline": baseline, "num_examples": 10}


def measured(**scores):
    return {"scores": scores, "num_train": 20, "num_cut": 0, "max_length": 128}


def test_a_toy_is_learned_beyond_the_majority_and_the_same_numbers_come_again(tiny_encoder, tmp_path, capsys):
    encoder = tiny_encoder()
    write_sst2(tmp_path / "glue")
    given = {**QUICK, "data": tmp_path / "glue", "seeds": 2}
    summary = evaluate(str(encoder.path), "glue", given, str(tmp_path / "first"))
    assert summary.numbers["average"] == summary.numbers["SST-2/accuracy"] > 0.9
    assert summary.rows[0][4:] == [0.5, 192, 60, 2]
    assert "SST-2" in capsys.readouterr().out
    again = evaluate(str(encoder.path), "glue", given, str(tmp_path / "second"))
    assert again == summary
    (kept,) = read_evaluations(tmp_path / "second" / "glue.json")
    assert list(kept["units"]) == ["SST-2/seed-0", "SST-2/seed-1"]


def test_an_interrupted_evaluation_goes_on_with_the_seed_it_was_at(tiny_encoder, tmp_path, monkeypatch):
    encoder = tiny_encoder()
    write_sst2(tmp_path / "glue", num_train=16, num_dev=8)
    given = {**QUICK, "data": tmp_path / "glue", "seeds": 2, "epochs": 1.0}
    undisturbed = evaluate(str(encoder.path), "glue", given, str(tmp_path / "undisturbed"))
    measure, asked = Glue.measure, []

    def stop_at_the_second(self, unit):
        asked.append(unit)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measure(self, unit)

    monkeypatch.setattr(glue.Glue, "measure", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(str(encoder.path), "glue", given, str(tmp_path / "out"))
    assert evaluate(str(encoder.path), "glue", given, str(tmp_path / "out")) == undisturbed
    assert asked == ["SST-2/seed-0", "SST-2/seed-1", "SST-2/seed-1"]


def test_only_the_data_sets_asked_for_are_read(tiny_encoder, tmp_path):
    encoder = tiny_encoder()
    write_sst2(tmp_path, num_train=16, num_dev=8)
    (tmp_path / "RTE").mkdir()
    given = {**QUICK, "data": tmp_path, "seeds": 1, "epochs": 1.0, "limit": 8}
    with pytest.raises(DataError, match=r"RTE: no train\.tsv"):
        evaluate(str(encoder.path), "glue", given)
    with pytest.raises(
        UsageError, match=r"--only CoLA: no part begins so; the parts are SST-2/seed-0, RTE/seed-0"
    ):
        evaluate(str(encoder.path), "glue", {**given, "only": ["CoLA"]})
    summary = evaluate(str(encoder.path), "glue", {**given, "only": ["SST-2"]})
    assert summary.rows[0][5:] == [8, 8, 1]


def test_a_data_set_added_later_leaves_the_others_measured(tiny_encoder, tmp_path, monkeypatch):
    encoder, measured = tiny_encoder(), []

    def note(_, unit):
        measured.append(unit)
        return {"scores": {"x": result(1.0)}, "num_train": 1, "num_cut": 0, "max_length": 1}

    monkeypatch.setattr(glue.Glue, "measure", note)
    write_sst2(tmp_path / "glue", num_train=4, num_dev=4)
    given = {"data": tmp_path / "glue", "seeds": 1}
    evaluate(str(encoder.path), "glue", given)
    write_stsb(tmp_path / "glue")
    evaluate(str(encoder.path), "glue", given)
    assert measured == ["SST-2/seed-0", "STS-B/seed-0"]
    (tmp_path / "glue" / "STS-B" / "dev.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t3\n")
    evaluate(str(encoder.path), "glue", {**given, "only": ["SST-2"]})
    assert len(measured) == 2
    evaluate(str(encoder.path), "glue", {**given, "only": ["STS-B"]})
    assert measured[2:] == ["STS-B/seed-0"]


def test_similarities_are_learned_as_numbers(tiny_encoder, tmp_path):
    write_stsb(tmp_path)
    given = {**QUICK, "data": tmp_path, "seeds": 1, "epochs": 20.0}
    summary = evaluate(str(tiny_encoder().path), "glue", given)
    numbers = summary.numbers
    assert numbers["STS-B/pearson"] > 0.8  # of training examples
    assert numbers["STS-B/spearman"] > 0.8
    assert numbers["average"] == (numbers["STS-B/pearson"] + numbers["STS-B/spearman"]) / 2
    assert [row[4] for row in summary.rows] == [0.0, 0.0]


def test_a_data_set_counts_once_in_the_average_whatever_its_metrics_and_seeds():
    scores = {"a": (0.6, 0.9), "b": (0.8, 0.7)}
    units = {
        **{
            f"MRPC/seed-{n}": measured(f1=result(f1), accuracy=result(0.5))
            for n, f1 in enumerate(scores["a"])
        },
        "SST-2/seed-0": measured(accuracy=result(0.8, baseline=0.9)),
    }
    summary = Glue.summarize(None, units)
    assert summary.numbers["MRPC/f1"] == pytest.approx(0.75)
    assert summary.numbers["MRPC/f1_std"] == pytest.approx(statistics.stdev([0.6, 0.9]))
    assert summary.numbers["MRPC/accuracy_std"] == 0
    assert "SST-2/accuracy_std" not in summary.numbers
    assert next(iter(summary.numbers)) == "average"
    assert summary.numbers["average"] == pytest.approx(((0.75 + 0.5) / 2 + 0.8) / 2)
    assert summary.rows[-1][:5] == ["average", "", pytest.approx(0.7125), None, pytest.approx(0.7)]


def test_the_constant_is_the_training_examples_most_frequent_label(tiny_encoder, tmp_path):
    write_sst2(tmp_path, num_train=16, num_dev=8)
    rows = ["sentence\tlabel", *["x\t1"] * 5, *["y\t0"] * 4]
    (tmp_path / "SST-2" / "train.tsv").write_text("\n".join(rows) + "\n")
    rows = ["sentence\tlabel", *["x\t1"] * 1, *["y\t0"] * 3]
    (tmp_path / "SST-2" / "dev.tsv").write_text("\n".join(rows) + "\n")
    given = {**QUICK, "data": tmp_path, "seeds": 1, "epochs": 1.0}
    assert evaluate(str(tiny_encoder().path), "glue", given).rows[0][4] == 0.25


@pytest.mark.parametrize(
    ("name", "limit"), [("SST-2", 64), ("WNLI", None), ("MRPC", 32), ("CoLA", 32), ("STS-B", 32)]
)
def test_the_real_data_sets_are_read_and_scored(tiny_encoder, shared_data, tmp_path, name, limit):
    given = {"data": shared_data("glue"), "only": [name], "seeds": 1, "epochs": 1.0}
    limited = given if limit is None else {**given, "limit": limit}
    summary = evaluate(str(tiny_encoder().path), "glue", limited, str(tmp_path))
    assert -1 <= summary.numbers["average"] <= 1
    expected = [635, 71, 1] if limit is None else [limit, limit, 1]
    assert all(row[5:] == expected for row in summary.rows)
    if name == "WNLI":
        assert summary.rows[0][4] == pytest.approx(40 / 71)  # 40 of 71 are false, as most training examples
        assert any("contradict" in note for note in summary.notes)


def test_defaults_are_what_the_task_takes():
    assert TASK.takes() == ["data", *TASK.defaults, "only", "limit"]
