"""Figures of heads against guidance's own, scipy's and loops."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from pipeline.data.documents import Documents
from pipeline.encoder.families import attention_reach
from pipeline.evaluation.probing.head_statistics import (
    entropy_sums,
    head_sums,
    looks_most_at,
    num_keys_in_reach,
    pattern_keys,
    pattern_mass_sums,
)
from pipeline.guidance.patterns import parse_pattern
from pipeline.guidance.schedule import GuidedStep
from pipeline.guidance.targets import make_targets
from tests.pipeline.modules import batch_of_rows, guided_module, score, sums_by_head
from tests.pipeline.tiny_models import FAMILIES, tiny_inputs, tiny_model

TOKEN_IDS = {"delimiters": [7, 8, 9, 50, 60], "sentence_ends": [3]}  # the latter is nowhere
LENGTHS = torch.tensor([5, 2])


def random_attention() -> torch.Tensor:
    """Of two sequences of 5 and 2 tokens, three heads."""
    scores = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    scores[1, :, :, 2:] = -torch.inf
    return scores.softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_mass_is_what_guidance_measures(family):
    """Of a model's heads, on padded sequences of two documents."""
    heads = {"next": 1, "previous": 1, "last": 1, "delimiters": 1}
    module = guided_module(tiny_model(family), [heads] * 3, TOKEN_IDS).eval()
    inputs = tiny_inputs()
    ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(1)
    documents = Documents.one_per_row(lengths, ids.shape[1])
    documents.ends[0, :10], documents.starts[0, 10:] = 10, 10
    positions = torch.zeros(len(ids), 1, dtype=torch.long)
    batch = batch_of_rows(ids, lengths, positions, positions + 7, documents)
    _, mass, rows = sums_by_head(score(module, batch, GuidedStep.looking_at([0, 1, 2])))

    eager = tiny_model(family).eval()
    eager.set_attn_implementation("eager")
    attentions = eager.base_model(**inputs, output_attentions=True).attentions
    targets = make_targets([parse_pattern(name, TOKEN_IDS) for name in heads], ids, documents, False)
    reaches = [attention_reach(eager.config, layer) for layer in range(3)]
    found = head_sums(attentions, targets, lengths, reaches)

    own = torch.stack([found.mass[head, :, head] for head in range(4)], dim=1)
    torch.testing.assert_close(own, mass, rtol=1e-4, atol=1e-4)
    assert found.num_targets.tolist() == rows[0].tolist()
    assert (found.entropy[1] <= found.num_choices[:, None] + 1e-6).all()


def test_pattern_without_a_target_has_neither_mass_nor_rows():
    ids = torch.full((2, 5), 11)
    documents = Documents.one_per_row(LENGTHS, 5)
    targets = make_targets([parse_pattern("sentence_ends", TOKEN_IDS)], ids, documents, False)
    assert targets.count_valid().tolist() == [0]
    assert pattern_mass_sums(random_attention(), pattern_keys(targets)).tolist() == [[0, 0, 0]]


def test_entropy_is_scipys():
    attention = random_attention()
    found = entropy_sums(attention, num_keys_in_reach(LENGTHS, 5, None))
    rows = [(0, row, 5) for row in range(5)] + [(1, row, 2) for row in range(2)]
    for head in range(3):
        values = [entropy(attention[b, head, row].double().numpy()) for b, row, _ in rows]
        assert found[0, head] == pytest.approx(sum(values), rel=1e-5)
        relative = [value / np.log(n) for value, (_, _, n) in zip(values, rows)]
        assert found[1, head] == pytest.approx(sum(relative), rel=1e-5)


def test_uniform_rows_have_the_highest_entropy_and_a_lone_token_none():
    attention = torch.full((1, 1, 4, 4), 0.25)
    assert entropy_sums(attention, torch.full((1, 4), 4))[:, 0].tolist() == pytest.approx([4 * np.log(4), 4])
    alone = torch.zeros(1, 1, 2, 2)
    alone[..., 0] = 1
    assert entropy_sums(alone, num_keys_in_reach(torch.tensor([1]), 2, None)).tolist() == [[0], [0]]


@pytest.mark.parametrize("reach", [None, 1, 2])
def test_keys_in_reach_are_counted(reach):
    expected = [
        [
            sum(abs(row - key) <= (9 if reach is None else reach) for key in range(n)) if row < n else 0
            for row in range(5)
        ]
        for n in (5, 2)
    ]
    assert num_keys_in_reach(LENGTHS, 5, reach).tolist() == expected


def test_strongest_key_must_be_a_wanted_one():
    attention = torch.zeros(2, 2, 3, 3)
    attention[0, 0, 2] = torch.tensor([0.2, 0.5, 0.3])
    attention[0, 1, 2] = torch.tensor([0.6, 0.3, 0.1])
    attention[1, :, 1] = torch.tensor([0.1, 0.2, 0.7])
    wanted = torch.tensor([[True, False, False], [False, True, True]])
    found = looks_most_at(attention, torch.tensor([2, 1]), wanted)
    assert found.tolist() == [[False, True], [True, True]]
