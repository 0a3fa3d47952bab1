"""Replaced-token detection against its formulas, written out with transformers' own models."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.masking import IGNORED_LABEL
from pipeline.encoder.replaced_token import replaced_logits
from pipeline.engine import total_loss
from tests.pipeline.objectives.electra.cases import NUM_ROWS, make_batch, make_module, make_recipe
from tests.pipeline.tiny_models import VOCABULARY

ALL_ROWS = list(range(NUM_ROWS))
FAMILIES = ("roberta", "bert", "modernbert")


def fill_in(module, batch) -> torch.Tensor:
    """The discriminator's input, by inverse distribution from the generator's whole logits."""
    positions, labels = batch.columns["positions"], batch.columns["labels"]
    masked = batch.input_ids.scatter(1, positions, batch.columns["replacements"])
    probs = module.generator(masked, attention_mask=batch.attention_mask()).logits.double().softmax(-1)
    probs[..., list(VOCABULARY.special_ids)] = 0.0
    probs[..., VOCABULARY.size :] = 0.0
    filled = batch.input_ids.clone()
    for row, slot in (labels != IGNORED_LABEL).nonzero().tolist():
        column = positions[row, slot]
        sums = probs[row, column].cumsum(-1)
        aim = batch.columns["uniforms"][row, slot] * sums[-1]
        filled[row, column] = torch.searchsorted(sums, aim, right=True)
    return filled


def plain_losses(module, batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums of both losses by their formulas, and what was replaced."""
    positions, labels = batch.columns["positions"], batch.columns["labels"]
    with torch.no_grad():
        filled = fill_in(module, batch)
    masked = batch.input_ids.scatter(1, positions, batch.columns["replacements"])
    logits = module.generator(masked, attention_mask=batch.attention_mask()).logits
    index = positions[..., None].expand(-1, -1, logits.shape[-1])
    generator = F.cross_entropy(
        logits.gather(1, index).flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
    )
    is_replaced = filled != batch.input_ids
    found = replaced_logits(module.discriminator(filled, attention_mask=batch.attention_mask()))
    is_real = torch.arange(filled.shape[1]) < batch.lengths[:, None]
    discriminator = F.binary_cross_entropy_with_logits(
        found[is_real], is_replaced[is_real].float(), reduction="sum"
    )
    return generator, discriminator, is_replaced


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_formula(family: str) -> None:
    recipe = make_recipe(family, discriminator_weight=7.0)
    module = make_module(recipe)
    plain = copy.deepcopy(module)
    batch = make_batch(recipe, ALL_ROWS)

    scored = module(batch, 0)
    total_loss(scored, batch.counts).backward()
    generator, discriminator, is_replaced = plain_losses(plain, batch)
    (generator / batch.counts["predicted"] + 7.0 * discriminator / batch.counts["tokens"]).backward()

    assert 0 < is_replaced.sum() == scored.sums["replaced"]
    assert scored.sums["generator_loss"].item() == pytest.approx(generator.item(), rel=1e-5)
    assert scored.sums["loss"].item() == pytest.approx(discriminator.item(), rel=1e-5)
    wanted = dict(plain.named_parameters())
    for name, parameter in module.named_parameters():
        assert (parameter.grad is None) == (wanted[name].grad is None), name
        if parameter.grad is not None:
            difference = (parameter.grad - wanted[name].grad).norm()
            assert difference <= 1e-4 * wanted[name].grad.norm() + 1e-6, name


def test_samples_get_no_gradient_and_the_generator_none_from_the_discriminator() -> None:
    recipe = make_recipe(tie_embeddings=False)
    module = make_module(recipe)

    module(make_batch(recipe, ALL_ROWS), 0).terms["discriminator"].sum.backward()

    assert all(parameter.grad is None for parameter in module.generator.parameters())
    assert any(parameter.grad is not None for parameter in module.discriminator.parameters())


@settings(max_examples=10)
@given(st.permutations(ALL_ROWS), st.integers(1, NUM_ROWS), st.integers(0, 5))
def test_samples_do_not_depend_on_the_division_into_batches(order: list[int], size: int, epoch: int) -> None:
    recipe = make_recipe()
    module = make_module(recipe).eval()
    with torch.no_grad():
        whole = filled_rows(module, recipe, ALL_ROWS, epoch)
        for start in range(0, NUM_ROWS, size):
            rows = order[start : start + size]
            for row, filled in zip(rows, filled_rows(module, recipe, rows, epoch)):
                assert filled == whole[row]


def filled_rows(module, recipe, rows: list[int], epoch: int) -> list[list[int]]:
    batch = make_batch(recipe, rows, epoch=epoch)
    sampled = module._ask_generator(batch).sampled_ids
    return module._fill_in(batch, sampled).tolist()


def test_only_chosen_tokens_are_replaced_and_by_ordinary_ones() -> None:
    recipe = make_recipe()
    module = make_module(recipe)
    for epoch in range(5):
        batch = make_batch(recipe, ALL_ROWS, epoch=epoch)
        filled = torch.tensor(filled_rows(module, recipe, ALL_ROWS, epoch))
        is_other = filled != batch.input_ids
        chosen = torch.zeros_like(is_other)
        rows, slots = (batch.columns["labels"] != IGNORED_LABEL).nonzero(as_tuple=True)
        chosen[rows, batch.columns["positions"][rows, slots]] = True
        assert not (is_other & ~chosen).any()
        assert np.isin(filled[chosen].numpy(), VOCABULARY.ordinary_ids()).all()


def test_rows_that_fill_up_a_batch_count_nothing() -> None:
    recipe = make_recipe()
    module = make_module(recipe).eval()
    with torch.no_grad():
        alone = module(make_batch(recipe, [1, 2]), None)
        filled_up = make_batch(recipe, [1, 2, 0, 0], filler=[0])
        beside = module(filled_up, None)

    assert filled_up.counts == make_batch(recipe, [1, 2]).counts | {
        "positions": filled_up.counts["positions"]
    }
    for name, value in alone.sums.items():
        assert beside.sums[name].item() == pytest.approx(value.item(), rel=1e-6), name
    assert beside.rows[:, 2:].eq(0).all()


def test_embeddings_are_tied_or_not() -> None:
    tied, untied = make_module(make_recipe()), make_module(make_recipe(tie_embeddings=False))

    embeddings = tied.discriminator.get_input_embeddings().weight
    assert tied.generator.get_input_embeddings().weight is embeddings
    assert tied.generator.get_output_embeddings().weight is embeddings
    positions = "embeddings.position_embeddings"
    of_both = [network.base_model.get_submodule(positions) for network in tied.networks.values()]
    assert of_both[0] is of_both[1]
    assert (
        untied.generator.get_input_embeddings().weight
        is not untied.discriminator.get_input_embeddings().weight
    )


def test_passes_are_those_made() -> None:
    recipe = make_recipe()
    batch = make_batch(recipe, ALL_ROWS)
    generator, discriminator = make_module(recipe).passes(batch)

    assert (generator.network, generator.predictions) == ("generator", batch.counts["predicted"])
    assert (discriminator.network, discriminator.predictions) == ("discriminator", batch.counts["tokens"])
