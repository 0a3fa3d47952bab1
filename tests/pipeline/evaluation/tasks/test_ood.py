"""The task on a real tiny encoder that knows one made-up language and is asked in another one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from pipeline.data.corpus import Vocabulary
from pipeline.encoder.model import build_model
from pipeline.errors import DataError, DivergedError
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.outliers.summary import summarize
from pipeline.evaluation.results import read_evaluations
from pipeline.evaluation.tasks.ood import OutOfDistribution
from tests.pipeline.tiny_models import save_encoder, tiny_section

INTENTS = ("ba ko", "de mi", "fu to", "go ni")  # what the words of an intent begin with
ENDS = "ri lu na se"
FOREIGN = "ca vy wo hu"
LENGTH = 40
SETTINGS = {"seeds": 1, "epochs": 5.0, "learning_rate": 3e-3, "batch_size": 16}


def queries(generator: np.random.Generator, words: list[str], number: int) -> list[str]:
    """Five words each."""
    return [" ".join(generator.choice(words, 5)) for _ in range(number)]


def two_syllables(first: str, second: str) -> list[str]:
    return [start + end for start in first.split() for end in second.split()]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In scope are queries in words of one intent; out of scope a third of the words are foreign."""
    generator = np.random.default_rng(0)
    data: dict[str, list[list[str]]] = {
        split: [
            [query, f"intent {first}"]
            for first in INTENTS
            for query in queries(generator, two_syllables(first, ENDS), number)
        ]
        for split, number in (("train", 100), ("val", 5), ("test", 20))
    }
    mixed = two_syllables(" ".join(INTENTS), ENDS) + two_syllables(FOREIGN, FOREIGN)
    for split, number in (("oos_train", 12), ("oos_test", 60)):
        data[split] = [[query, "oos"] for query in queries(generator, mixed, number)]
    path = tmp_path_factory.mktemp("data")
    (path / "data_full.json").write_text(json.dumps(data))
    return path


@pytest.fixture(scope="module")
def model_dir(
    vocabulary: Vocabulary, tiny_tokenizer: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A RoBERTa of two layers, pretrained for some steps on the language in scope."""
    directory = tmp_path_factory.mktemp("model") / "roberta"
    model = build_model(tiny_section("roberta", num_layers=2), vocabulary, LENGTH, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_tokenizer))
    train = json.loads((data_dir / "data_full.json").read_text())["train"]
    pretrain(model, tokenizer([query for query, _ in train], padding=True, return_tensors="pt"), vocabulary)
    return save_encoder(model, tiny_tokenizer, directory)


def pretrain(model: PreTrainedModel, batch: dict[str, torch.Tensor], vocabulary: Vocabulary) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        rows = torch.randint(len(batch["input_ids"]), (32,), generator=generator)
        ids, mask = batch["input_ids"][rows], batch["attention_mask"][rows]
        asked = (torch.rand(ids.shape, generator=generator) < 0.15) & mask.bool()
        labels = ids.masked_fill(~asked, -100)
        hidden = ids.masked_fill(asked, vocabulary.mask_id)
        model(input_ids=hidden, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def numbers(model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    out = tmp_path_factory.mktemp("out")
    return dict(evaluate(str(model_dir), "ood", {"data": data_dir, **SETTINGS}, str(out)).numbers)


def test_fine_tuned_encoder_tells_the_other_language(numbers):
    assert numbers["fine-tuned/accuracy"] > 0.9
    for score in ("mahalanobis", "relative_mahalanobis"):
        assert numbers[f"fine-tuned/{score}/auroc"] > 0.9
        assert numbers[f"fine-tuned/{score}/aupr"] > 0.9
        assert numbers[f"fine-tuned/{score}/fpr_at_95_tpr"] < 0.5


def test_pretrained_encoder_finds_it_foreign_without_labels(numbers):
    assert numbers["frozen/one_gaussian/auroc"] > 0.9


def test_seeing_outliers_beats_seeing_none(numbers):
    for encoder in ("frozen", "fine-tuned"):
        assert numbers[f"{encoder}/exposure-10/auroc"] > numbers[f"{encoder}/control-10/auroc"] + 0.1


def test_the_same_language_is_not_detected(model_dir, data_dir, tmp_path):
    data = json.loads((data_dir / "data_full.json").read_text())
    data["oos_test"] = data["train"][::5]  # and trained on without them
    data["train"] = [row for place, row in enumerate(data["train"]) if place % 5]
    (tmp_path / "data_full.json").write_text(json.dumps(data))
    given = {"data": tmp_path, "only": ["frozen"], **SETTINGS}
    found = evaluate(str(model_dir), "ood", given, str(tmp_path / "out")).numbers
    for score in ("mahalanobis", "relative_mahalanobis", "one_gaussian", "max_softmax", "energy"):
        assert found[f"frozen/{score}/auroc"] == pytest.approx(0.5, abs=0.12), score
    assert not any(name.startswith("fine-tuned") for name in found)


def test_same_command_gives_the_same_numbers_and_leaves_nothing(model_dir, data_dir, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path / "scratch")
    given = {"data": data_dir, **SETTINGS, "seeds": 2, "epochs": 0.2, "limit": 40}
    first, second = (
        evaluate(str(model_dir), "ood", given, str(tmp_path / out)).numbers for out in ("first", "second")
    )
    assert first == second
    units = read_evaluations(tmp_path / "first" / "ood.json")[0]["units"]
    assert list(units) == ["frozen", "seed-0", "seed-1"]
    assert units["seed-0"]["scores"] != units["seed-1"]["scores"]
    aurocs = [units[f"seed-{seed}"]["scores"]["energy"]["auroc"] for seed in (0, 1)]
    assert first["fine-tuned/energy/auroc"] == pytest.approx(np.mean(aurocs))
    assert list((tmp_path / "scratch").iterdir()) == []
    table = summarize({"fine-tuned": [units["seed-0"], units["seed-1"]]})
    (row,) = [row for row in table.rows if row[1] == "energy"]
    assert row[2:4] == pytest.approx([np.mean(aurocs), np.std(aurocs, ddof=1)])


def test_fine_tuning_that_falls_behind_is_warned_of(numbers):
    figures = {"auroc": 0.5, "aupr": 0.5, "fpr_at_95_tpr": 0.5}
    counts = {"num_train": 400, "num_inside": 80, "num_outside": 60, "num_dimensions": 32}
    scores = {name.split("/")[1]: figures for name in numbers if name.endswith("/aupr")}
    better, worse = (
        {"accuracy": accuracy, "scores": scores, "exposure": {}, "control": {}, **counts}
        for accuracy in (0.5, 0.4)
    )
    notes = "\n".join(summarize({"fine-tuned": [worse], "frozen": [better]}).notes)
    assert "warning: accuracy fine-tuned, 0.4, is below frozen, 0.5: try more --epochs" in notes
    assert "warning" not in "\n".join(summarize({"fine-tuned": [better], "frozen": [worse]}).notes)
    assert "warning" not in "\n".join(summarize({"fine-tuned": [worse]}).notes)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_other_families_are_fine_tuned(family, vocabulary, tiny_tokenizer, data_dir, tmp_path):
    model = build_model(tiny_section(family, num_layers=1), vocabulary, LENGTH, seed=0)
    path = save_encoder(model, tiny_tokenizer, tmp_path / "model")
    given = {"data": data_dir, **SETTINGS, "only": ["seed-0"], "limit": 80}
    assert evaluate(str(path), "ood", given).numbers["fine-tuned/accuracy"] > 0.25


def test_few_examples_per_dimension_are_warned_of(model_dir, data_dir, tmp_path, capsys):
    given = {"data": data_dir, **SETTINGS, "only": ["frozen"]}
    evaluate(str(model_dir), "ood", {**given, "limit": 319}, str(tmp_path))  # of 32 dimensions
    assert "319 training queries for 32 dimensions are 10.0 each; below 10" in capsys.readouterr().out
    evaluate(str(model_dir), "ood", {**given, "limit": 320}, str(tmp_path))
    assert "warning" not in capsys.readouterr().out


def test_learning_rate_that_is_too_high_is_told(model_dir, data_dir, tmp_path):
    given = {"data": data_dir, **SETTINGS, "only": ["seed-0"], "learning_rate": 1e12}
    with pytest.raises(
        DivergedError, match=r"fine-tuning .* with seed 0 diverged: .*--learning-rate below 1e"
    ):
        evaluate(str(model_dir), "ood", given, str(tmp_path))


def test_the_file_itself_is_its_directory(model_dir, data_dir, tmp_path, monkeypatch):
    given = {**SETTINGS, "only": ["frozen"], "limit": 40}
    first = evaluate(str(model_dir), "ood", {"data": data_dir, **given}, str(tmp_path))
    monkeypatch.setattr(OutOfDistribution, "measure", None)  # everything is there already
    file = {"data": data_dir / "data_full.json", **given}
    assert evaluate(str(model_dir), "ood", file, str(tmp_path)) == first


def test_data_of_another_layout_is_told(model_dir, tmp_path):
    with pytest.raises(DataError, match=r"data_full\.json does not exist"):
        evaluate(str(model_dir), "ood", {"data": tmp_path}, str(tmp_path))


def test_slice_of_clinc150(model_dir, shared_data, tmp_path):
    given = {"data": shared_data("clinc150"), "only": ["frozen"], "limit": 450}
    found = evaluate(str(model_dir), "ood", given, str(tmp_path)).numbers
    unit = read_evaluations(tmp_path / "ood.json")[0]["units"]["frozen"]
    assert (unit["num_train"], unit["num_inside"], unit["num_outside"]) == (450, 450, 450)
    assert found["frozen/accuracy"] > 3 / 150  # a made-up language is little help, but more than none
    assert 0.3 < found["frozen/relative_mahalanobis/auroc"] < 0.95
