"""Embeddings of real tiny encoders, against one sentence at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from pipeline.data.corpus import Vocabulary
from pipeline.encoder.model import build_model
from pipeline.errors import UsageError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.outliers.embeddings import Pooling, embed, load_pretrained
from tests.pipeline.tiny_models import FAMILIES, save_encoder, tiny_section

LENGTH = 16
SENTENCES = [
    "return the value",
    "x",
    "a list of numbers, of which the first is taken and all the others are left alone for ever and ever",
    "Return the mean",
    "",
    "none of these is of the same length as another",
]


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(
    request: pytest.FixtureRequest,
    vocabulary: Vocabulary,
    tiny_tokenizer: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Encoder:
    directory = tmp_path_factory.mktemp("encoders") / request.param
    model = build_model(tiny_section(request.param, dropout=0.1), vocabulary, LENGTH, seed=0)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return Encoder.open(str(save_encoder(model, tiny_tokenizer, directory)), torch.device("cpu"))


def embeddings(encoder: Encoder, pooling: Pooling, **options: int) -> np.ndarray:
    options = {"batch_size": 4, "max_length": LENGTH} | options
    return embed(load_pretrained(encoder), encoder, SENTENCES, pooling=pooling, **options)


@torch.no_grad()
def hidden_states(encoder: Encoder, max_length: int) -> list[torch.Tensor]:
    """Of every sentence by itself, without padding, (T, D)."""
    tokenizer = AutoTokenizer.from_pretrained(str(encoder.path))
    model = AutoModel.from_pretrained(str(encoder.path)).eval()
    rows = [tokenizer(sentence)["input_ids"] for sentence in SENTENCES]
    cut = [row[: max_length - 1] + row[-1:] if len(row) > max_length else row for row in rows]
    return [model(torch.tensor([row])).last_hidden_state[0].double() for row in cut]


@pytest.mark.parametrize("max_length", [LENGTH, 6])
def test_pooled_are_the_real_tokens_in_the_sentences_order(encoder, max_length):
    alone = hidden_states(encoder, max_length)
    assert max(map(len, alone)) == max_length  # one is cut
    mean = embeddings(encoder, Pooling.MEAN, max_length=max_length)
    assert mean.dtype == np.float64
    assert mean == pytest.approx(np.stack([states.mean(0).numpy() for states in alone]), abs=1e-5)
    first = embeddings(encoder, Pooling.FIRST, max_length=max_length)
    assert first == pytest.approx(np.stack([states[0].numpy() for states in alone]), abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_batch_size_changes_nothing_but_rounding(encoder, batch_size):
    expected = embeddings(encoder, Pooling.MEAN)
    assert embeddings(encoder, Pooling.MEAN, batch_size=batch_size) == pytest.approx(expected, abs=1e-5)


def test_sentences_are_cut_where_the_model_ends(encoder):
    expected = embeddings(encoder, Pooling.MEAN)
    assert embeddings(encoder, Pooling.MEAN, max_length=1000) == pytest.approx(expected, abs=1e-6)


def test_dropout_is_off_and_on_again(encoder):
    model = load_pretrained(encoder).train()
    options = {"pooling": Pooling.MEAN, "batch_size": 4, "max_length": LENGTH}
    found = embed(model, encoder, SENTENCES, **options)
    assert found == pytest.approx(embeddings(encoder, Pooling.MEAN), abs=1e-6)
    assert model.training


def test_directory_that_is_no_model_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(UsageError, match="cannot be opened as a model's configuration"):
        load_pretrained(Encoder.open(str(tmp_path), torch.device("cpu")))
