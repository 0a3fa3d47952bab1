import gzip
import random

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score

from pipeline.errors import DataError
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.results import read_evaluations
from pipeline.evaluation.tasks.tag import span_scores
from tests.pipeline.evaluation.toy_texts import NEUTRAL

QUICK = {"epochs": 8.0, "learning_rate": 3e-3, "batch_size": 16, "seeds": 1}


def toy_sentences(num_sentences, seed):
    """ "error" is a person, "number name" a place of two words; "name" alone is nothing."""
    generator = random.Random(seed)
    blocks = []
    for index in range(num_sentences):
        lines = [f"{word} O" for word in generator.choices(NEUTRAL, k=4)]
        entity = ["error B-PER"] if index % 2 else ["number B-LOC", "name I-LOC"]
        lines[2:2] = entity
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def write(directory, name, text):
    directory.mkdir(exist_ok=True)
    content = text.encode()
    (directory / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_spans_are_learned(tiny_encoder, tmp_path, family):
    write(tmp_path / "ner", "train.txt.gz", toy_sentences(192, seed=1))
    write(tmp_path / "ner", "dev.conll", toy_sentences(40, seed=2))
    encoder = tiny_encoder(family, "wordpiece" if family == "bert" else "bpe")
    summary = evaluate(str(encoder.path), "tag", {**QUICK, "data": tmp_path / "ner"})
    assert summary.numbers["f1"] > 0.9
    assert [(row[0], row[3]) for row in summary.rows] == [
        ("f1", 40),
        ("precision", None),
        ("recall", None),
        ("f1 of LOC", 20),
        ("f1 of PER", 20),
    ]
    (kept,) = read_evaluations(encoder.path / "evaluation" / "tag.json")
    assert kept["units"]["seed-0"]["types"]["PER"]["f1"] > 0.9
    assert kept["units"]["seed-0"]["num_words"] == 20 * 5 + 20 * 6


def test_the_same_command_gives_the_same_numbers(tiny_encoder, tmp_path):
    for name in ("train.txt", "dev.txt"):
        write(tmp_path / "ner", name, toy_sentences(64, seed=1))
    encoder = tiny_encoder()
    given = {**QUICK, "data": tmp_path / "ner", "epochs": 2.0, "seeds": 2}
    results = [evaluate(str(encoder.path), "tag", given, str(tmp_path / out)) for out in ("first", "second")]
    assert results[0] == results[1]


def test_words_behind_the_cut_are_missed_not_forgotten(tiny_encoder, tmp_path):
    """A model that knows everything still misses what it cannot see."""
    write(tmp_path / "ner", "train.txt", toy_sentences(192, seed=1))
    visible = toy_sentences(20, seed=2)
    hidden = "\n".join(["the O"] * 40 + ["error B-PER"]) + "\n"
    write(tmp_path / "ner", "dev.txt", visible + "\n" + hidden)
    write(tmp_path / "short", "train.txt", toy_sentences(192, seed=1))
    write(tmp_path / "short", "dev.txt", visible)
    encoder = tiny_encoder()
    all_words = evaluate(str(encoder.path), "tag", {**QUICK, "data": tmp_path / "ner"}, str(tmp_path / "a"))
    only_visible = evaluate(
        str(encoder.path), "tag", {**QUICK, "data": tmp_path / "short"}, str(tmp_path / "b")
    )
    assert only_visible.numbers["recall"] > 0.9
    assert all_words.numbers["recall"] == pytest.approx(only_visible.numbers["recall"] * 20 / 21)
    assert any("words lie behind the cut at 32 tokens" in note for note in all_words.notes)


def test_scores_are_seqevals_and_those_by_hand():
    true = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC", "O"]]
    predicted = [["B-PER", "I-PER", "O", "B-PER"], ["O", "I-LOC", "O"]]
    found = span_scores(true, predicted)
    # Right: the person, and the place whose I- begins a span. Wrong: a person too many, a place too few.
    assert found["precision"] == pytest.approx(2 / 3) == precision_score(true, predicted)
    assert found["recall"] == pytest.approx(2 / 3) == recall_score(true, predicted)
    assert found["f1"] == pytest.approx(2 / 3) == f1_score(true, predicted)
    assert found["num_spans"] == 3
    assert found["types"]["PER"] == {
        "f1": pytest.approx(2 / 3),
        "precision": 0.5,
        "recall": 1.0,
        "num_spans": 1,
    }
    assert found["types"]["LOC"]["recall"] == 0.5


def test_half_a_span_is_no_span():
    assert span_scores([["B-PER", "I-PER"]], [["B-PER", "O"]])["f1"] == 0
    assert span_scores([["B-PER", "O"]], [["O", "O"]])["f1"] == 0


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no train.txt; expected train.txt or train.conll or train.txt.gz or train.conll.gz there"),
        ({"train.txt": "a B-X\n"}, "no dev.txt"),
        ({"train.txt": "a O\n", "dev.txt": "a O\n"}, "train.txt: all words are tagged O"),
        ({"train.txt": "a B-X\n", "dev.txt": "a O\nb B-Y\n"}, "dev.txt, line 2: the tag 'B-Y' is not of"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tiny_encoder, tmp_path, files, message):
    for name, text in files.items():
        write(tmp_path, name, text)
    with pytest.raises(DataError) as raised:
        evaluate(str(tiny_encoder().path), "tag", {"data": tmp_path})
    assert message in str(raised.value)


def test_real_sentences_are_read_and_scored(tiny_encoder, shared_data, tmp_path):
    given = {"data": shared_data("masakhaner2_yor"), "seeds": 1, "epochs": 1.0, "limit": 40}
    summary = evaluate(str(tiny_encoder().path), "tag", given, str(tmp_path))
    assert 0 <= summary.numbers["f1"] <= 1
    assert "40 sentences" in summary.notes[0]
    assert {row[0]: row[3] for row in summary.rows if row[3]} == {
        "f1": 11,
        "f1 of DATE": 3,
        "f1 of LOC": 4,
        "f1 of ORG": 4,
    }


def test_single_seeds_can_be_asked_for(tiny_encoder, tmp_path):
    for name in ("train.txt", "dev.txt"):
        write(tmp_path, name, toy_sentences(8, seed=1))
    path = tiny_encoder().path
    evaluate(str(path), "tag", {**QUICK, "data": tmp_path, "epochs": 1.0, "seeds": 2, "only": ["seed-1"]})
    (kept,) = read_evaluations(path / "evaluation" / "tag.json")
    assert list(kept["units"]) == ["seed-1"]
