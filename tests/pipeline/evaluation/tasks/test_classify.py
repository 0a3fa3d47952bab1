import csv
import gzip

import pytest
from sklearn.metrics import f1_score

from pipeline.errors import DataError
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.results import read_evaluations
from pipeline.evaluation.tasks.classify import _read, _scores
from tests.pipeline.evaluation.toy_texts import toy_texts

QUICK = {"epochs": 6.0, "learning_rate": 3e-3, "batch_size": 16, "seeds": 1}
NAMES = ("sports", "health")


def write(path, header, rows):
    path.parent.mkdir(exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([header, *rows])


def write_news(directory, **splits):
    """As MasakhaNEWS: category, headline, text, url; the deciding word is in the headline only."""
    for split, (num_texts, seed) in splits.items():
        rows = [[NAMES[label], text, 'a "line"\nof text', "u"] for text, label in toy_texts(num_texts, seed)]
        write(directory / f"{split}.tsv.gz", ["category", "headline", "text", "url"], rows)


def test_a_toy_is_learned_beyond_the_majority(tiny_encoder, tmp_path, capsys):
    write_news(tmp_path / "news", train=(192, 1), dev=(60, 2))
    given = {**QUICK, "data": tmp_path / "news", "seeds": 2}
    encoder = tiny_encoder()
    summary = evaluate(str(encoder.path), "classify", given)
    assert summary.numbers["macro_f1"] > 0.9
    assert summary.numbers["accuracy"] > 0.9
    baselines = {row[0]: row[3] for row in summary.rows}
    assert baselines == {"macro_f1": pytest.approx(1 / 3), "accuracy": 0.5}
    printed = capsys.readouterr().out
    assert "60 examples of the dev split, 2 classes; 192 training examples; seeds: 2" in printed
    assert "classes from column category, texts from headline and text" in printed
    (kept,) = read_evaluations(encoder.path / "evaluation" / "classify.json")
    assert list(kept["units"]) == ["seed-0", "seed-1"]
    assert evaluate(str(encoder.path), "classify", given, str(tmp_path / "again")) == summary


def test_the_test_split_is_scored_if_there_is_one(tiny_encoder, tmp_path):
    write_news(tmp_path, train=(16, 1), dev=(8, 2), test=(12, 3))
    summary = evaluate(str(tiny_encoder().path), "classify", {**QUICK, "data": tmp_path, "epochs": 1.0})
    assert "12 examples of the test split" in summary.notes[0]


def test_classes_are_those_of_all_training_examples_however_few_are_used(tiny_encoder, tmp_path):
    rows = [["a", "x"], ["a", "y"], ["b", "z"]]
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.tsv", ["label", "sentence"], rows[:: 1 if split == "train" else -1])
    given = {**QUICK, "data": tmp_path, "epochs": 1.0, "limit": 2}
    summary = evaluate(str(tiny_encoder().path), "classify", given)
    assert "2 examples of the dev split, 2 classes; 2 training examples" in summary.notes[0]


def test_texts_are_joined_in_a_fixed_order_whatever_the_columns(tmp_path):
    write(tmp_path / "train.tsv", ["text", "x", "title", "class"], [["two", "-", "one", "c"]])
    split = _read(tmp_path / "train.tsv", ["class", "title", "text"], None, None)
    assert (split.name, split.texts, split.labels) == ("train", ["one\ntwo"], ["c"])


def test_macro_f1_is_the_mean_over_classes():
    true, predicted = ["a", "a", "b", "c"], ["a", "b", "b", "b"]
    found = _scores(true, predicted)
    # a: precision 1, recall 1/2; b: precision 1/3, recall 1; c: nothing.
    assert found == {"macro_f1": pytest.approx((2 / 3 + 1 / 2 + 0) / 3), "accuracy": 0.5}
    assert found["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (
            [["kind", "text"], ["a", "x"]],
            None,
            "no column of labels; it has kind, text, expected label or category",
        ),
        (
            [["label", "words"], ["a", "x"]],
            None,
            "no column of texts; it has label, words, expected headline or",
        ),
        ([["label", "text"], ["a", "x"], ["a", "y"]], None, "all examples have the label 'a'"),
        ([["label", "text"]], None, "no example; expected rows with label, text"),
        (
            [["label", "text"], ["a", "x"], ["b", "y"]],
            None,
            "no dev.tsv; expected dev.tsv or dev.tsv.gz there",
        ),
        (
            [["label", "text"], ["a", "x"], ["b", "y"]],
            [["label", "text"], ["a", "x"], ["c", "y"]],
            "dev.tsv, line 3: label is 'c', which no training example has; expected a, b",
        ),
        (
            [["label", "text"], ["a", "x"], ["b", "y"]],
            [["text"], ["x"]],
            "dev.tsv: no column 'label'; it has text",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tiny_encoder, tmp_path, train, dev, message):
    for split, rows in (("train", train), ("dev", dev)):
        if rows is not None:
            write(tmp_path / f"{split}.tsv", rows[0], rows[1:])
    with pytest.raises(DataError) as raised:
        evaluate(str(tiny_encoder().path), "classify", {"data": tmp_path})
    assert message in str(raised.value)


def test_real_news_are_read_and_scored(tiny_encoder, shared_data, tmp_path):
    given = {"data": shared_data("masakhanews") / "yor", "seeds": 1, "epochs": 1.0, "limit": 64}
    summary = evaluate(str(tiny_encoder().path), "classify", given, str(tmp_path))
    assert 0 <= summary.numbers["macro_f1"] <= 1
    assert "64 examples of the dev split, 5 classes; 64 training examples" in summary.notes[0]


def test_single_seeds_can_be_asked_for(tiny_encoder, tmp_path):
    write_news(tmp_path, train=(16, 1), dev=(8, 2))
    path = tiny_encoder().path
    evaluate(
        str(path), "classify", {**QUICK, "data": tmp_path, "epochs": 1.0, "seeds": 2, "only": ["seed-1"]}
    )
    (kept,) = read_evaluations(path / "evaluation" / "classify.json")
    assert list(kept["units"]) == ["seed-1"]
