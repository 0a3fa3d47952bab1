"""Minimal pairs, from a directory of paradigms to figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pipeline.errors import DataError, UsageError
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.results import read_evaluations
from pipeline.evaluation.tasks.blimp import half_width, pair_accuracy
from tests.pipeline.tiny_models import FAMILIES

PAIRS = [
    ("The function returns a list.", "The function return a list."),
    ("Both arrays are of one length.", "Both arrays is of one length."),
    ("It is the same.", "It is the same."),
    ("These are the values.", "This are the values."),
]


def write_paradigm(directory: Path, uid: str, term: str, pairs: list[tuple[str, str]]) -> None:
    directory.mkdir(exist_ok=True)
    lines = [
        {"sentence_good": good, "sentence_bad": bad, "linguistics_term": term, "field": "syntax", "UID": uid}
        for good, bad in pairs
    ]
    (directory / f"{uid}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "blimp"
    write_paradigm(directory, "a", "agreement", PAIRS)
    write_paradigm(directory, "b", "agreement", PAIRS[:1])
    write_paradigm(directory, "c", "binding", PAIRS[1:3])
    return directory


@torch.no_grad()
def slow_difference(path: Path, good: str, bad: str) -> float:
    model = AutoModelForMaskedLM.from_pretrained(str(path)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(path))
    scores = []
    for text in (good, bad):
        ids, total = tokenizer(text, return_tensors="pt")["input_ids"], 0.0
        for position in range(1, ids.shape[1] - 1):
            masked = ids.clone()
            masked[0, position] = tokenizer.mask_token_id
            log_probs = model(input_ids=masked).logits[0, position].log_softmax(-1)
            total += log_probs[ids[0, position]].item()
        scores.append(total)
    return scores[0] - scores[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_accuracy_is_that_of_a_slow_loop_with_ties_as_a_half(model_dir, data, family):
    path = model_dir(family)
    expected = np.array([slow_difference(path, *pair) for pair in PAIRS])
    assert expected[2] == 0

    summary = evaluate(str(path), "blimp", {"data": data})

    (entry,) = read_evaluations(path / "evaluation" / "blimp.json")
    assert list(entry["units"]) == ["a", "b", "c"]
    found = entry["units"]["a"]
    assert found["num_pairs"] == 4
    assert found["num_ties"] == 1
    assert found["accuracy"] == ((expected > 0).sum() + 0.5) / 4
    assert found["mean_difference"] == pytest.approx(expected.mean(), rel=1e-4)
    of_paradigms = [found["accuracy"], float(expected[0] > 0), (float(expected[1] > 0) + 0.5) / 2]
    assert next(iter(summary.numbers)) == "accuracy"
    assert summary.numbers["accuracy"] == pytest.approx(np.mean(of_paradigms))
    assert summary.numbers["accuracy/agreement"] == pytest.approx(np.mean(of_paradigms[:2]))
    assert summary.numbers["accuracy/binding"] == pytest.approx(of_paradigms[2])


def test_batch_size_changes_only_rounding(model_dir, data, tmp_path):
    path = model_dir("roberta")
    entries = []
    for batch_size in (1, 7, 500):
        out = tmp_path / str(batch_size)
        evaluate(str(path), "blimp", {"data": data, "batch_size": batch_size}, str(out))
        entries += read_evaluations(out / "blimp.json")
    for uid in "abc":
        differences = [entry["units"][uid].pop("mean_difference") for entry in entries]
        assert differences == pytest.approx([differences[0]] * 3, rel=1e-5)
        assert entries[0]["units"][uid] == entries[1]["units"][uid] == entries[2]["units"][uid]


def test_tokens_are_counted_without_special_ones(model_dir, data):
    path = model_dir("bert")
    evaluate(str(path), "blimp", {"data": data, "only": ["b"], "limit": 1})
    ((uid, found),) = read_evaluations(path / "evaluation" / "blimp.json")[0]["units"].items()
    tokenizer = AutoTokenizer.from_pretrained(str(path))
    assert uid == "b"
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in PAIRS[0]]
    assert [found["mean_tokens_good"], found["mean_tokens_bad"]] == lengths


def test_too_long_sentence_is_named(model_dir, data):
    path = model_dir("roberta", length=20)
    write_paradigm(data, "d", "binding", [*PAIRS[:2], ("Long. " * 30, "Short.")])
    with pytest.raises(DataError, match=r"d\.jsonl, line 3: a sentence of \d+ tokens, and .* takes 20"):
        evaluate(str(path), "blimp", {"data": data, "only": ["d"]})


def test_model_without_an_output_layer_is_refused(model_dir, data):
    path = model_dir("bert")
    AutoModelForMaskedLM.from_pretrained(str(path)).bert.save_pretrained(str(path))
    with pytest.raises(UsageError, match=r"lacks weights of a masked language model, cls\.predictions"):
        evaluate(str(path), "blimp", {"data": data})


def test_weights_that_are_no_numbers_are_told(model_dir, data):
    path = model_dir("bert")
    weights = load_file(path / "model.safetensors")
    for value, message in ((float("nan"), "holds values that are no finite"), (1e30, "of paradigm a are no")):
        for name in weights:
            weights[name] = torch.full_like(weights[name], value)
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        with pytest.raises(UsageError, match=message):
            evaluate(str(path), "blimp", {"data": data})


def test_hidden_files_are_no_paradigms(model_dir, data):
    (data / "._a.jsonl").write_bytes(b"\0")
    summary = evaluate(str(model_dir("bert")), "blimp", {"data": data})
    assert summary.rows[-1][1] == 3


def test_file_in_the_place_of_the_directory_is_refused(model_dir, data):
    with pytest.raises(UsageError, match="is a file; name the directory"):
        evaluate(str(model_dir("bert")), "blimp", {"data": data / "a.jsonl"})


def test_tie_counts_half():
    assert pair_accuracy(np.array([1.0, -2.0, 0.0, 3.0])) == 0.625
    assert pair_accuracy(np.zeros(3)) == 0.5


def test_half_width_is_the_spread_of_repeated_samples():
    generator = np.random.default_rng(0)
    rates, num_pairs = np.array([0.9, 0.6, 0.3]), 200
    accuracies = generator.binomial(num_pairs, rates, (20_000, 3)).mean(1) / num_pairs
    found = half_width([{"accuracy": rate, "num_pairs": num_pairs} for rate in rates])
    assert found == pytest.approx(1.96 * accuracies.std(), rel=0.03)
    assert half_width([{"accuracy": 1.0, "num_pairs": 5}]) > 0.2


def test_blimp_itself(model_dir, shared_data):
    summary = evaluate(str(model_dir("modernbert")), "blimp", {"data": shared_data("blimp"), "limit": 1})
    assert len(summary.rows) == 14
    assert 0.0 <= summary.numbers["accuracy"] <= 1.0
