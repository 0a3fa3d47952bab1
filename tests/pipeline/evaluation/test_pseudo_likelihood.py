"""Scores against a slow loop over positions, of real models of every family."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from pipeline.evaluation.pseudo_likelihood import (
    TokenizedSentence,
    logits_at,
    pseudo_log_likelihoods,
    tokenize,
)
from tests.pipeline.tiny_models import FAMILIES, VOCABULARY, tiny_inputs, tiny_model

MASK, PAD = VOCABULARY.mask_id, VOCABULARY.pad_id


def random_sentences(lengths: list[int]) -> list[TokenizedSentence]:
    generator = np.random.default_rng(0)
    return [
        TokenizedSentence(
            (VOCABULARY.cls_id, *generator.integers(5, 97, length).tolist(), VOCABULARY.sep_id),
            tuple(range(1, length + 1)),
        )
        for length in lengths
    ]


SENTENCES = random_sentences([3, 11, 1, 7, 7, 20, 2])


def score(model: PreTrainedModel, sentences: list[TokenizedSentence], batch_size: int) -> np.ndarray:
    return pseudo_log_likelihoods(model, sentences, MASK, PAD, batch_size)


@torch.no_grad()
def slow_score(model: PreTrainedModel, sentence: TokenizedSentence) -> float:
    """One masked copy at a time, without padding, all logits."""
    total = 0.0
    for position in sentence.positions:
        ids = torch.tensor([sentence.token_ids])
        ids[0, position] = MASK
        log_probs = model(input_ids=ids).logits[0, position].log_softmax(-1)
        total += log_probs[sentence.token_ids[position]].item()
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_a_loop_over_positions_whatever_the_batch(family):
    model = tiny_model(family).eval()
    expected = [slow_score(model, sentence) for sentence in SENTENCES]
    assert len({round(value, 3) for value in expected}) == len(SENTENCES)
    for batch_size in (1, 4, 1000):
        np.testing.assert_allclose(score(model, SENTENCES, batch_size), expected, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_at_a_position_are_those_of_all_positions(family):
    model, inputs = tiny_model(family).eval(), tiny_inputs()
    positions = torch.tensor([23, 0, 5, 1])
    full = model(**inputs).logits[torch.arange(4), positions]
    found = logits_at(model, positions=positions, **inputs)
    assert found.shape == (4, model.config.vocab_size)
    torch.testing.assert_close(found, full, rtol=1e-5, atol=1e-5)
    # The model is left as it was.
    assert model(**inputs).logits.shape == (*inputs["input_ids"].shape, model.config.vocab_size)


def test_model_that_knows_only_frequencies_gives_their_sum():
    model = tiny_model("roberta").eval()
    frequencies = torch.linspace(-2, 2, model.config.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.lm_head.bias.copy_(frequencies)
    log_probs = frequencies.log_softmax(-1)
    (found,) = score(model, [TokenizedSentence((0, 60, 9, 2), (1, 2))], 2)
    assert found == pytest.approx((log_probs[60] + log_probs[9]).item(), rel=1e-6)


def test_the_same_tokens_have_the_same_bits():
    model = tiny_model("bert").eval()
    found = score(model, [*SENTENCES, *SENTENCES[::-1]], 5)
    assert found[: len(SENTENCES)].tolist() == found[len(SENTENCES) :][::-1].tolist()


def test_special_tokens_are_given_to_the_model_and_not_scored(tiny_tokenizer: Path):
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_tokenizer))
    short, long = tokenize(tokenizer, ["It works.", "Return the number of rows that are left."])
    assert len(long.token_ids) > len(short.token_ids)
    for sentence, text in ((short, "It works."), (long, "Return the number of rows that are left.")):
        assert sentence.token_ids[0] == tokenizer.cls_token_id
        assert sentence.token_ids[-1] == tokenizer.sep_token_id
        assert sentence.positions == tuple(range(1, len(sentence.token_ids) - 1))
        assert tokenizer.decode([sentence.token_ids[place] for place in sentence.positions]) == text
