"""What heads look at, of small real models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pipeline.errors import UsageError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.probing.reflexives import reflexive_sentences
from pipeline.evaluation.probing.text import held_out_text
from pipeline.evaluation.results import read_evaluations
from pipeline.evaluation.tasks import probe
from pipeline.runs.run_dir import RunDir
from tests.pipeline.tiny_models import FAMILIES

NUM_SENTENCES = 30


@pytest.fixture(autouse=True)
def few_sentences(monkeypatch):
    monkeypatch.setattr(probe, "_NUM_SENTENCES", NUM_SENTENCES)


def units_of(path: Path) -> dict:
    return read_evaluations(path / "evaluation" / "probe.json")[-1]["units"]


@torch.no_grad()
def slow_figures(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mass on the next token, entropy and reflexive scores, sentence by sentence without padding."""
    model = AutoModelForMaskedLM.from_pretrained(str(path), attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(str(path))
    mass, entropies, hits = [], [], []
    for sentence in reflexive_sentences(NUM_SENTENCES):
        encoded = tokenizer(sentence.text, return_offsets_mapping=True, return_tensors="pt")
        offsets = encoded["offset_mapping"][0].tolist()
        output = model.base_model(encoded["input_ids"], output_attentions=True)
        attention = torch.cat(output.attentions).double()  # (layers, heads, N, N)
        mass.append(attention.diagonal(1, -2, -1))
        entropies.append(torch.special.entr(attention).sum(-1))
        # A space may be a token of its own, of no characters.
        row = next(i for i, (start, end) in enumerate(offsets) if start == sentence.reflexive[0] < end)
        strongest = attention[:, :, row].argmax(-1)
        start, end = (torch.tensor(offsets)[strongest][..., side] for side in (0, 1))
        hits.append((start >= sentence.antecedent[0]) & (end <= sentence.antecedent[1]) & (end > start))
    return (
        torch.cat(mass, -1).mean(-1).numpy(),
        torch.cat(entropies, -1).mean(-1).numpy(),
        torch.stack(hits).double().mean(0).numpy(),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_figures_are_those_of_single_sentences(model_dir, family):
    path = model_dir(family)
    mass, entropies, score = slow_figures(path)

    summary = evaluate(str(path), "probe", {"batch_size": 4})

    patterns, reflexives = units_of(path)["patterns"], units_of(path)["reflexives"]
    assert patterns["text"] == "template sentences"
    assert patterns["num_rows"] == reflexives["num_usable"] == NUM_SENTENCES
    np.testing.assert_allclose(patterns["mass"]["next"], mass, rtol=1e-4)
    np.testing.assert_allclose(patterns["entropy"], entropies, rtol=1e-4)
    np.testing.assert_allclose(reflexives["score"], score)
    assert 0 < summary.numbers["reflexives/mean"] < summary.numbers["reflexives/max"] == score.max()
    assert summary.numbers["entropy/mean"] == pytest.approx(entropies.mean(), rel=1e-4)
    assert summary.numbers["heads/next"] == (mass >= 0.5).sum()
    assert 0 < summary.numbers["reflexives/best_offset"] < 1
    with Image.open(path / "evaluation" / "probe.png") as figure:
        assert min(figure.size) > 300


def test_mass_of_patterns_that_share_keys_and_of_all_rows(model_dir):
    """Delimiters are the first and the last token, and relative entropy is a share."""
    path = model_dir("bert")
    evaluate(str(path), "probe", {"only": ["patterns"]})
    found = units_of(path)["patterns"]
    mass = {name: np.array(values) for name, values in found["mass"].items()}
    np.testing.assert_allclose(mass["delimiters"], mass["first"] + mass["last"], rtol=1e-4)
    assert all(((values > 0) & (values < 1)).all() for values in mass.values())
    relative = np.array(found["relative_entropy"])
    assert ((relative > 0) & (relative < 1)).all()
    assert (np.array(found["entropy"]) > relative).all()


def test_one_unit_alone_is_summarized(model_dir):
    path = model_dir("roberta")
    alone = evaluate(str(path), "probe", {"only": ["reflexives"]})
    assert all(name.startswith("reflexives/") for name in alone.numbers)
    assert list(alone.header) == ["layer", "reflexives"]
    assert len(alone.rows) == 3
    both = evaluate(str(path), "probe", {})
    assert {name: both.numbers[name] for name in alone.numbers} == alone.numbers


def test_attention_that_does_not_come_is_told(model_dir, monkeypatch):
    path = model_dir("bert")
    masked_lm = Encoder.pretrained_model
    monkeypatch.setattr(Encoder, "pretrained_model", lambda self, attention: masked_lm(self, "sdpa"))
    with pytest.raises(UsageError, match="0 of 3 layers gave their attention"):
        evaluate(str(path), "probe", {})


def test_model_too_short_for_any_sentence_is_told(model_dir):
    with pytest.raises(UsageError, match="cannot read English sentences"):
        evaluate(str(model_dir("bert", length=4)), "probe", {})


# Held-out rows


@pytest.fixture
def run_of(make_recipe: Callable, tmp_path: Path) -> Callable[..., RunDir]:
    def make(**data: object) -> RunDir:
        run = RunDir(tmp_path / "run")
        run.create(make_recipe({f"data.{key}": value for key, value in data.items()}), {})
        return run

    return make


def test_held_out_rows_are_those_of_the_corpus_uncorrupted(run_of, vocabulary):
    text = held_out_text(run_of(), 5)
    assert text.input_ids.shape == (5, 32)
    assert not (text.input_ids == vocabulary.mask_id).any()
    assert (text.documents.starts > 0).any()
    batches = list(text.batches(2, torch.device("cpu")))
    assert [len(batch.lengths) for batch in batches] == [2, 2, 1]
    assert torch.equal(batches[1].input_ids, text.input_ids[2:4])
    assert batches[0].attention_mask().sum(1).tolist() == text.lengths[:2].tolist()


def test_rows_whose_documents_are_kept_apart_become_sequences_of_one_document(run_of, vocabulary):
    rows = held_out_text(run_of(), 5)
    apart = held_out_text(run_of(attend_across_documents=False), 5)
    assert len(apart.lengths) > 5
    assert int(apart.lengths.sum()) == int(rows.lengths.sum())
    assert (apart.documents.starts == 0).all()
    joined = torch.cat([row[:n] for row, n in zip(apart.input_ids, apart.lengths)])
    assert torch.equal(joined, torch.cat([row[:n] for row, n in zip(rows.input_ids, rows.lengths)]))
