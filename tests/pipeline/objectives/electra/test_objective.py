"""Checks and metrics of replaced-token detection."""

import math

import pytest
import torch

from pipeline.accounting.metrics import values_of
from pipeline.config.schema import Recipe
from pipeline.encoder.model import model_config
from pipeline.objectives.electra.networks import generator_config
from pipeline.objectives.electra.objective import OBJECTIVE, entropy
from pipeline.objectives.protocol import Facts
from tests.pipeline.objectives.electra.cases import make_recipe
from tests.pipeline.tiny_models import LENGTH, VOCABULARY


def problems_of(recipe: Recipe) -> list[tuple[tuple[str, ...], str]]:
    config = model_config(recipe.model, VOCABULARY, LENGTH)
    facts = Facts(vocabulary=VOCABULARY, positions=LENGTH, config=config)
    return [(problem.keys, problem.message) for problem in OBJECTIVE.check(recipe, facts)]


def test_a_generator_is_not_deeper_than_its_discriminator() -> None:
    assert problems_of(make_recipe(generator_layers=3)) == []
    [(keys, message)] = problems_of(make_recipe(generator_layers=4))
    assert keys == ("objective.generator_layers", "model.num_layers")
    assert "found 4" in message


def test_tied_embeddings_have_one_size() -> None:
    [(keys, message)] = problems_of(make_recipe(generator_width=0.5))
    assert keys == ("objective.generator_width", "objective.tie_embeddings")
    assert "32 and 16" in message
    assert problems_of(make_recipe(generator_width=0.5, tie_embeddings=False)) == []


def test_a_guided_generator_has_the_heads_that_are_guided() -> None:
    def with_heads(heads: dict, generator_width: float = 1.0, **guided: object) -> Recipe:
        recipe = make_recipe(tie_embeddings=False, generator_width=generator_width)
        networks = ["generator", "discriminator"]
        guidance = recipe.guidance.model_validate({"heads": heads, "networks": networks, **guided})
        return recipe.model_copy(update={"guidance": guidance})

    assert problems_of(with_heads({"next": 2})) == []
    [(keys, message)] = problems_of(with_heads({"next": 3}, generator_width=0.5))
    assert keys == ("guidance.heads", "model.num_heads")
    assert message.startswith("in the generator, 3 guided heads")
    [(keys, message)] = problems_of(with_heads({"2-": {"next": 1}}))
    assert keys == ("guidance.heads",)
    assert message.startswith("in the generator, ")
    [(keys, message)] = problems_of(with_heads({"next": 1}, layers=[0, 2]))
    assert keys == ("guidance.layers", "model.num_layers")
    assert "in the generator, [2] are beyond the last layer, 0" in message
    weights = {"layer_weights": [1.0, 2.0, 3.0], "layers_per_step": 1}
    [(keys, message)] = problems_of(with_heads({"next": 1}, **weights))
    assert keys == ("guidance.layer_weights",)
    assert "3 weights for 1 guided layers" in message


@pytest.mark.parametrize("family", ["distilbert", "funnel"])
def test_networks_that_a_family_cannot_have_are_told(family: str) -> None:
    recipe = make_recipe(family, generator_width=0.5, tie_embeddings=False)
    [(keys, message)] = problems_of(recipe)
    assert keys[:2] == ("objective.kind", "model.family")
    assert f"cannot be made of {family!r}" in message


def test_the_generator_has_the_sizes_asked_for() -> None:
    recipe = make_recipe("modernbert", generator_layers=0.67, generator_width=0.5, tie_embeddings=False)
    config = model_config(recipe.model, VOCABULARY, LENGTH)

    small = generator_config(recipe.objective, config)

    assert (small.num_hidden_layers, small.hidden_size, small.num_attention_heads) == (2, 16, 2)
    assert small.intermediate_size == 32
    assert small.layer_types == config.layer_types[:2]
    assert config.num_hidden_layers == 3


@pytest.mark.parametrize("rate", [1e-6, 0.1, 0.5, 0.9])
def test_entropy_is_the_loss_of_the_best_constant(rate: float) -> None:
    share = torch.tensor([rate], dtype=torch.float64)
    best = torch.nn.functional.binary_cross_entropy(share, share)
    assert entropy(rate) == pytest.approx(best.item(), rel=1e-9)
    assert entropy(0.0) == entropy(1.0) == 0.0
    assert math.isnan(entropy(math.nan))


def test_metrics_are_quotients_of_sums() -> None:
    totals = {"loss": 20.0, "tokens": 100.0, "replaced": 10.0, "found": 4.0, "right": 90.0}
    totals |= {"generator_loss": 60.0, "generator_right": 5.0, "predicted": 15.0}
    found = values_of(OBJECTIVE.metrics, {k: torch.tensor(v) for k, v in totals.items()}, held_out=True)
    assert found.pop("constant_loss") == pytest.approx(entropy(0.1))
    assert found == {
        "loss": 0.2,
        "accuracy": pytest.approx(0.9),
        "replaced_rate": 0.1,
        "recall": 0.4,
        "generator_loss": 4.0,
        "generator_accuracy": pytest.approx(1 / 3),
    }
    assert OBJECTIVE.metrics[0].name == "loss"
