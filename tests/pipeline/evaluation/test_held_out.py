"""Held-out measurements must not depend on how the rows are dealt out."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from pipeline.build import Corpus, build_pretraining_module
from pipeline.config.schema import Recipe
from pipeline.data.batches import Batch, evaluation_batches
from pipeline.data.masking import IGNORED_LABEL
from pipeline.engine import PretrainingModule
from pipeline.evaluation.held_out import evaluate_held_out
from pipeline.objectives import load_objective
from pipeline.processes.cluster import Cluster
from tests.conftest import TINY_LENGTH
from tests.pipeline.data.test_batches import corrupted

CPU = torch.device("cpu")
MEASURES = ("loss", "accuracy", "guidance_error", "guidance_mass")


@dataclass
class OneOfMany(Cluster):
    """A process that keeps what it would have summed with the others."""

    kept: list[torch.Tensor] | None = None

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.kept.append(values.clone())
        return values


@pytest.fixture
def recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    return make_recipe()


@pytest.fixture
def corpus(recipe: Recipe) -> Corpus:
    return Corpus.open(recipe.corpus)


@pytest.fixture
def module(recipe: Recipe, corpus: Corpus) -> PretrainingModule:
    return trained_a_little(recipe, corpus)


def trained_a_little(recipe: Recipe, corpus: Corpus) -> PretrainingModule:
    """Not at its initialization, where attention is all but uniform in every row."""
    module = build_pretraining_module(recipe, corpus)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


def measure(
    module: PretrainingModule, corpus: Corpus, recipe: Recipe, batch_size: int, cluster: Cluster | None = None
) -> dict[str, Any]:
    batcher = corpus.batcher(recipe, "valid")
    alone = Cluster(rank=0, local_rank=0, world_size=1, device=CPU)
    metrics = load_objective(recipe.objective.kind).metrics
    return evaluate_held_out(module, module, metrics, batcher, (21, batch_size), cluster or alone)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    else:
        assert found == pytest.approx(expected, rel=1e-4)


def test_loss_is_the_mean_over_all_asked_tokens(
    module: PretrainingModule, corpus: Corpus, recipe: Recipe
) -> None:
    found = measure(module, corpus, recipe, 21)

    (batch,) = evaluation_batches(corpus.batcher(recipe, "valid"), 21, 21, 0, 1)
    module.rest()
    logits = module.model.eval()(corrupted(batch), attention_mask=batch.attention_mask()).logits
    positions, labels = batch.columns["positions"], batch.columns["labels"]
    asked = labels != IGNORED_LABEL
    chosen = logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[-1]))[asked]
    assert found["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(chosen, labels[asked]).item(), rel=1e-4
    )
    assert found["accuracy"] == pytest.approx((chosen.argmax(-1) == labels[asked]).float().mean().item())
    assert found["perplexity"] == pytest.approx(2.718281828 ** found["loss"], rel=1e-6)


@pytest.mark.parametrize("error", ["cross_entropy", "squared"])
def test_error_and_mass_are_those_of_the_models_own_attention(
    make_recipe: Callable[..., Recipe], corpus: Corpus, error: str
) -> None:
    """Against dense targets, head by head, in a table with single keys and sets of keys."""
    lower, upper = ["next", "next", "sentence_ends"], ["last", "next", "delimiters", "delimiters"]
    heads = {"0-0": Counter(lower), "1-1": Counter(upper)}
    table = {layers: dict(counts) for layers, counts in heads.items()}
    recipe = make_recipe({"guidance.heads": table, "guidance.error": error})
    module = trained_a_little(recipe, corpus)
    found = measure(module, corpus, recipe, 8)

    (batch,) = evaluation_batches(corpus.batcher(recipe, "valid"), 21, 21, 0, 1)
    module.model.eval().set_attn_implementation("eager")
    inputs = {"attention_mask": batch.attention_mask(), "output_attentions": True}
    attentions = module.model(corrupted(batch), **inputs).attentions
    errors, mass = defaultdict(list), defaultdict(list)
    for layer, names in enumerate([lower, upper]):
        for head, name in enumerate(names):
            target = dense_targets(name, batch, corpus)
            has_target = target.sum(-1) > 0
            probs, target = attentions[layer][:, head][has_target].detach(), target[has_target]
            on_target = (probs * (target > 0)).sum(-1)
            squared = (probs - target).square().sum(-1)
            errors[name] += (squared if error == "squared" else -on_target.log()).tolist()
            mass[name, layer] += on_target.tolist()

    for name in {*lower, *upper}:
        assert found["guidance_error"][name] == pytest.approx(fmean(errors[name]), rel=1e-4)
        for layer, share in enumerate(found["guidance_mass"][name]):
            expected = fmean(mass[name, layer]) if (name, layer) in mass else None
            assert share == (None if expected is None else pytest.approx(expected, rel=1e-4))


def dense_targets(name: str, batch: Batch, corpus: Corpus) -> torch.Tensor:
    """What every position should look at, (B, N, N); zeros where it has no target."""
    tokenizer = AutoTokenizer.from_pretrained(str(corpus.path / "tokenizer"))
    texts = [tokenizer.decode([token_id]).strip() for token_id in range(len(tokenizer))]
    sets = {
        "delimiters": {tokenizer.cls_token_id, tokenizer.sep_token_id},
        "sentence_ends": {token_id for token_id, text in enumerate(texts) if text in (".", "!", "?")},
    }
    tokens = batch.input_ids.tolist()
    starts, ends = batch.documents.starts.tolist(), batch.documents.ends.tolist()
    targets = torch.zeros(*batch.input_ids.shape, batch.input_ids.shape[1])
    for row, place in torch.cartesian_prod(*map(torch.arange, batch.input_ids.shape)).tolist():
        document = range(starts[row][place], ends[row][place])
        chosen = {
            "next": [key for key in document if key == place + 1],
            "last": list(document)[-1:],
        }.get(name) or [key for key in document if tokens[row][key] in sets.get(name, ())]
        targets[row, place, chosen] = 1.0 / max(1, len(chosen))
    return targets


def test_a_bias_is_left_out(make_recipe: Callable[..., Recipe], corpus: Corpus) -> None:
    """The model is measured as it will be exported."""
    by_method = {
        method: make_recipe({"guidance": {"heads": {"next": 1, "first": 1}, "method": method}})
        for method in ("loss", "bias")
    }

    plain, biased = (
        measure(trained_a_little(recipe, corpus), corpus, recipe, 8) for recipe in by_method.values()
    )

    assert {name: plain[name] for name in MEASURES} == {name: biased[name] for name in MEASURES}


def test_unguided_model_has_no_patterns_to_measure(
    make_recipe: Callable[..., Recipe], corpus: Corpus
) -> None:
    recipe = make_recipe({"guidance.heads": {}})

    found = measure(trained_a_little(recipe, corpus), corpus, recipe, 8)

    assert (found["guidance_error"], found["guidance_mass"]) == ({}, {})
    assert found["loss"] > 0


def test_batch_size_does_not_matter_to_the_published_loss(
    make_recipe: Callable[..., Recipe], corpus: Corpus
) -> None:
    """It counts padding, but not rows that only fill up a batch."""
    recipe = make_recipe({"guidance.normalization": "authors"})
    module = trained_a_little(recipe, corpus)

    found, expected = measure(module, corpus, recipe, 16), measure(module, corpus, recipe, 21)

    for name in MEASURES:
        assert_same(found[name], expected[name])


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_batch_size_does_not_matter(
    module: PretrainingModule, corpus: Corpus, recipe: Recipe, batch_size: int
) -> None:
    """21 rows in batches of 16: the last one is filled up with rows that must not count."""
    found, expected = measure(module, corpus, recipe, batch_size), measure(module, corpus, recipe, 21)

    for name in MEASURES:
        assert_same(found[name], expected[name])


def test_number_of_processes_does_not_matter(
    module: PretrainingModule, corpus: Corpus, recipe: Recipe
) -> None:
    expected: list[torch.Tensor] = []
    measure(module, corpus, recipe, 21, OneOfMany(0, 0, 1, CPU, kept=expected))

    found = [torch.zeros_like(total) for total in expected]
    for rank in range(4):
        kept: list[torch.Tensor] = []
        measure(module, corpus, recipe, 4, OneOfMany(rank, rank, 4, CPU, kept=kept))
        found = [total + part for total, part in zip(found, kept)]

    (found_sums,), (expected_sums,) = found, expected
    is_close = torch.isclose(found_sums, expected_sums, rtol=1e-4)
    # All are the same, by layer and head where they are guidance's, but the count of rows that fill up.
    assert found_sums[~is_close].tolist() == [32 * TINY_LENGTH]
    assert expected_sums[~is_close].tolist() == [21 * TINY_LENGTH]
    assert len(expected_sums) > 3 * 2 * 3


def test_module_goes_back_to_training(module: PretrainingModule, corpus: Corpus, recipe: Recipe) -> None:
    module.train()
    measure(module, corpus, recipe, 8)
    assert module.training

    module.eval()
    measure(module, corpus, recipe, 8)
    assert not module.training


def test_measuring_twice_gives_the_same(module: PretrainingModule, corpus: Corpus, recipe: Recipe) -> None:
    first, second = measure(module, corpus, recipe, 8), measure(module, corpus, recipe, 8)

    assert {name: first[name] for name in MEASURES} == {name: second[name] for name in MEASURES}
