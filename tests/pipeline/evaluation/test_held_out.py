"""Held-out measurements must not depend on how the rows are dealt out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from pipeline.build import Corpus, build_pretraining_module
from pipeline.config.schema import Recipe
from pipeline.data.batches import evaluation_batches
from pipeline.data.masking import IGNORED_LABEL
from pipeline.distributed import Cluster
from pipeline.engine import PretrainingModule
from pipeline.evaluation.held_out import evaluate_held_out

CPU = torch.device("cpu")
MEASURES = ("loss", "accuracy", "guidance_error", "guidance_mass")


@dataclass(frozen=True)
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
    """Not at its initialization, where attention is all but uniform in every row."""
    module = build_pretraining_module(recipe, corpus, CPU)
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
    return evaluate_held_out(module, module.guide, 2, batcher, 21, batch_size, cluster or alone)


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
    module.guide.watch((), batch.lengths)
    logits = module.model.eval()(batch.input_ids, attention_mask=batch.attention_mask()).logits
    asked = batch.labels != IGNORED_LABEL
    chosen = logits.gather(1, batch.positions[..., None].expand(-1, -1, logits.shape[-1]))[asked]
    assert found["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(chosen, batch.labels[asked]).item(), rel=1e-4
    )
    assert found["accuracy"] == pytest.approx(
        (chosen.argmax(-1) == batch.labels[asked]).float().mean().item()
    )
    assert found["perplexity"] == pytest.approx(2.718281828 ** found["loss"], rel=1e-6)


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
    measure(module, corpus, recipe, 21, OneOfMany(0, 0, 1, CPU, expected))

    found = [torch.zeros_like(total) for total in expected]
    for rank in range(4):
        kept: list[torch.Tensor] = []
        measure(module, corpus, recipe, 4, OneOfMany(rank, rank, 4, CPU, kept))
        found = [total + part for total, part in zip(found, kept)]

    loss, predicted, correct = 0, 1, 2
    for index in (loss, predicted, correct):
        assert found[0][index].item() == pytest.approx(expected[0][index].item(), rel=1e-4)
    assert torch.allclose(found[1], expected[1], rtol=1e-4)  # errors, mass and rows, by layer and head


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
