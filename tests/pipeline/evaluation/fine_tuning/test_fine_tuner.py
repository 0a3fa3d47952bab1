"""A head on real tiny encoders of every family: what is trained, and that the seed decides all of it."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from pipeline.errors import DivergedError, UsageError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.fine_tuning import fine_tuner
from pipeline.evaluation.fine_tuning.fine_tuner import FineTuner, tokenize_texts
from pipeline.evaluation.fine_tuning.tagged_words import Sentence, tokenize_words
from pipeline.evaluation.task import Settings
from tests.pipeline.evaluation.conftest import LONGEST_INPUT
from tests.pipeline.evaluation.toy_texts import toy_texts

PLAIN = Settings(epochs=1.0, learning_rate=3e-3, batch_size=16, max_length=128)
ALL = [
    ("roberta", "bpe"),
    ("roberta", "wordpiece"),
    ("bert", "wordpiece"),
    ("bert", "bpe"),
    ("modernbert", "bpe"),
]


def tuner(encoder, num_labels=2, per="text", **settings):
    return FineTuner(encoder, Settings(**{**PLAIN.given(), **settings}), per, num_labels)


def toy(made, num_texts=48, seed=0, pairs=False):
    texts = toy_texts(num_texts, seed)
    parts = [text.split(" ", 2) if pairs else [text] for text, _ in texts]
    return tokenize_texts(made, [part[:2] for part in parts], [label for _, label in texts]).features


@pytest.mark.parametrize(("family", "kind"), ALL)
@pytest.mark.parametrize("pairs", [False, True])
def test_all_families_take_texts_and_pairs(tiny_encoder, family, kind, pairs):
    made = tuner(tiny_encoder(family, kind))
    features = toy(made, pairs=pairs)
    logits, shorter = made.logits(features, [features, features[:5]], seed=0)
    assert logits.shape == (48, 2)
    np.testing.assert_allclose(shorter, logits[:5], atol=1e-5)
    assert made.has_segments == ((family, kind) == ("bert", "wordpiece"))
    assert ("token_type_ids" in features[0]) == made.has_segments


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_training_starts_from_the_encoder(tiny_encoder, family):
    encoder = tiny_encoder(family)
    made = tuner(encoder)
    pretrained = AutoModel.from_pretrained(str(encoder.model_dir))
    loaded = getattr(made._model_under_new_head(0), pretrained.base_model_prefix)
    weights = loaded.state_dict()
    for name, weight in pretrained.state_dict().items():
        if "pooler" not in name:
            assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_the_seed_decides_everything(tiny_encoder, family):
    made = tuner(tiny_encoder(family))
    features = toy(made)
    (first,) = made.logits(features, [features], seed=3)
    # What was drawn in between does not matter.
    torch.rand(5), random.random(), np.random.rand()
    (again,) = made.logits(features, [features], seed=3)
    (other,) = made.logits(features, [features], seed=4)
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_order_of_examples_depends_on_the_seed(tiny_encoder, monkeypatch):
    """Not only the head does: all else equal, other seeds see other batches."""
    made = tuner(tiny_encoder(dropout=0.0))
    features = toy(made)
    monkeypatch.setattr(fine_tuner, "set_seed", lambda seed: torch.manual_seed(0))
    results = [made.logits(features, [features], seed=seed)[0] for seed in (0, 1)]
    assert not np.array_equal(*results)


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_a_word_that_decides_is_learned(tiny_encoder, family):
    made = tuner(tiny_encoder(family), epochs=8.0)
    train, dev = toy(made, 256, seed=1), toy(made, 60, seed=2)
    (logits,) = made.logits(train, [dev], seed=0)
    labels = [example["labels"] for example in dev]
    assert sum(labels) == 30
    assert (logits.argmax(axis=1) == labels).mean() > 0.9


def test_one_label_is_a_number_learned_by_squared_error(tiny_encoder):
    made = tuner(tiny_encoder(), num_labels=1, epochs=8.0)
    texts = toy_texts(256, seed=1)
    train = tokenize_texts(made, [[text] for text, _ in texts], [4.0 * label for _, label in texts])
    (predicted,) = made.logits(train.features, [train.features], seed=0)
    assert predicted.shape == (256, 1)
    true = np.array([4.0 * label for _, label in texts])
    assert np.abs(predicted[:, 0] - true).mean() < 0.7  # 2 for a constant


def test_texts_are_cut_to_what_is_asked_or_to_the_longest_input(tiny_encoder):
    encoder = tiny_encoder()
    texts = [["word " * 100], ["word"], ["word " * 100]]
    for asked, length in ((128, LONGEST_INPUT), (10, 10)):
        tokenized = tokenize_texts(tuner(encoder, max_length=asked), texts, [0, 1, 0])
        assert [len(example["input_ids"]) for example in tokenized.features][::2] == [length, length]
        assert len(tokenized.features[1]["input_ids"]) < 10
        assert tokenized.num_cut == 2
    assert tokenize_texts(tuner(encoder), [["word"]], [0]).num_cut == 0


def test_nothing_is_left_behind_and_nothing_said(tiny_encoder, tmp_path, monkeypatch, capfd, recwarn):
    made = tuner(tiny_encoder("bert", "wordpiece"))
    features = toy(made)
    before = sorted(made.encoder.path.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    capfd.readouterr()  # of making the encoder
    made.logits(features, [features], seed=0)
    assert list(tmp_path.iterdir()) == []
    assert sorted(made.encoder.path.iterdir()) == before
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_weights_that_are_not_there_are_refused(tiny_encoder):
    encoder = tiny_encoder()
    file = encoder.path / "model.safetensors"
    weights = load_file(file)
    gone = [name for name in weights if "layer.1.attention" in name]
    assert gone
    save_file({name: value for name, value in weights.items() if name not in gone}, file, {"format": "pt"})
    with pytest.raises(UsageError, match=rf"its weights lack roberta\.encoder.* and {len(gone) - 1} more"):
        tuner(encoder).logits([], [], seed=0)
    file.unlink()
    with pytest.raises(UsageError, match="cannot be opened as AutoModelForSequenceClassification"):
        tuner(Encoder.open(str(encoder.path), torch.device("cpu"))).logits([], [], seed=0)


def test_divergence_is_told_with_what_to_try(tiny_encoder):
    made = tuner(tiny_encoder(), learning_rate=1e12)
    features = toy(made)
    with pytest.raises(DivergedError, match=r"no numbers any more; write a --learning-rate below 1e\+12"):
        made.logits(features, [features], seed=0)


def test_a_tokenizer_that_does_not_tell_places_is_refused(tiny_encoder, monkeypatch):
    made = tuner(tiny_encoder())
    monkeypatch.setattr(type(made.encoder.tokenizer), "is_fast", False)
    with pytest.raises(UsageError, match="does not tell which characters a token stands for"):
        toy(made)
    with pytest.raises(UsageError, match="does not tell which characters a token stands for"):
        tokenize_words(made, [Sentence(["a"], ["O"])], ["O"])
