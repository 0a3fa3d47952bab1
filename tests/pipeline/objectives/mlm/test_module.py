"""Scoring the masked tokens only, against transformers' own loss over all of them."""

from collections.abc import Callable

import pytest
import torch

from pipeline.config.schema import Recipe
from pipeline.data.corpus import Vocabulary
from pipeline.data.masking import IGNORED_LABEL
from pipeline.objectives import load_objective
from pipeline.objectives.mlm.module import MaskedLanguageModeling
from pipeline.objectives.protocol import Facts, Scored
from tests.pipeline.modules import batch_of_rows
from tests.pipeline.tiny_models import FAMILIES, LENGTH, LENGTHS, tiny_inputs, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)
POSITIONS = torch.tensor([[1, 22, 7], [8, 2, 0], [5, 16, 3], [1, 0, 2]])
IS_ASKED = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)


def questions() -> tuple[torch.Tensor, torch.Tensor]:
    """Labels per asked position (B, K), and the same spread over all tokens (B, T)."""
    answers = torch.randint(5, 97, POSITIONS.shape, generator=torch.Generator().manual_seed(2))
    labels = torch.where(IS_ASKED, answers, IGNORED_LABEL)
    dense = torch.full((len(LENGTHS), LENGTH), IGNORED_LABEL)
    for row, slot in IS_ASKED.nonzero().tolist():
        dense[row, POSITIONS[row, slot]] = labels[row, slot]
    return labels, dense


def score(objective: MaskedLanguageModeling, labels: torch.Tensor, lengths: list[int] = LENGTHS) -> Scored:
    """Of the inputs of `tiny_inputs`, nothing of which is hidden."""
    ids = tiny_inputs(lengths)["input_ids"]
    return objective(batch_of_rows(ids, torch.tensor(lengths), POSITIONS, labels), 0)


@every_family
@pytest.mark.parametrize("lengths", [LENGTHS, [LENGTH] * 4], ids=["padded", "full"])
def test_loss_and_gradients_are_those_of_the_dense_loss(family: str, lengths: list[int]) -> None:
    labels, dense_labels = questions()
    inputs = tiny_inputs(lengths)
    objective, reference = MaskedLanguageModeling(tiny_model(family)), tiny_model(family)

    scored = score(objective, labels, lengths)
    loss = scored.terms["mlm"].sum
    loss.backward()
    expected = reference(**inputs, labels=dense_labels).loss * IS_ASKED.sum()
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert scored.terms["mlm"].per == "predicted"
    assert scored.rows[0].sum().item() == pytest.approx(loss.item(), rel=1e-6)
    assert scored.rows[1].tolist() == IS_ASKED.sum(1).tolist()
    assert scored.sums["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    wanted = dict(reference.named_parameters())
    for name, parameter in objective.model.named_parameters():
        if wanted[name].grad is not None:
            scale = wanted[name].grad.norm()
            assert (parameter.grad - wanted[name].grad).norm() <= 1e-4 * scale + 1e-6, name


@every_family
def test_each_row_has_the_loss_it_would_have_alone(family: str) -> None:
    labels, dense_labels = questions()
    inputs = tiny_inputs()
    model = tiny_model(family).eval()

    scored = score(MaskedLanguageModeling(model), labels)

    for row, loss in enumerate(scored.rows[0].tolist()):
        alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        expected = model(**alone, labels=dense_labels[row : row + 1]).loss * IS_ASKED[row].sum()
        assert loss == pytest.approx(expected.item(), rel=1e-5)


@every_family
def test_right_guesses_are_counted(family: str) -> None:
    inputs = tiny_inputs()
    model = tiny_model(family).eval()
    best = model(**inputs).logits.argmax(-1).gather(1, POSITIONS)
    labels = torch.where(IS_ASKED, best, IGNORED_LABEL)
    labels[0, 0] = (best[0, 0] + 1) % 97

    scored = score(MaskedLanguageModeling(model), labels)

    assert scored.sums["correct"].item() == IS_ASKED.sum().item() - 1


@every_family
def test_it_sees_the_replacements_in_the_place_of_the_tokens(family: str) -> None:
    """Also where nothing is predicted, and what stands there is the token itself."""
    labels, dense_labels = questions()
    inputs, model = tiny_inputs(), tiny_model(family).eval()
    batch = batch_of_rows(inputs["input_ids"], torch.tensor(LENGTHS), POSITIONS, labels)
    is_hidden = IS_ASKED & (torch.arange(3) != 1)
    batch.columns["replacements"] = torch.where(is_hidden, 4, batch.columns["replacements"])
    before = batch.input_ids.clone()

    scored = MaskedLanguageModeling(model)(batch, 0)

    corrupted = inputs["input_ids"].clone()
    for row, slot in is_hidden.nonzero().tolist():
        corrupted[row, POSITIONS[row, slot]] = 4
    expected = model(corrupted, attention_mask=inputs["attention_mask"], labels=dense_labels).loss
    assert scored.terms["mlm"].sum.item() == pytest.approx((expected * IS_ASKED.sum()).item(), rel=1e-5)
    assert torch.equal(batch.input_ids, before)


def test_nothing_asked_costs_nothing() -> None:
    scored = score(MaskedLanguageModeling(tiny_model("bert")), torch.full((4, 3), IGNORED_LABEL))
    total = scored.terms["mlm"].sum

    total.backward()

    assert (total.item(), scored.rows.tolist()) == (0.0, [[0.0] * 4] * 2)
    assert scored.sums["correct"].item() == 0


def test_loss_is_summed_in_float32_whatever_the_models_type() -> None:
    labels, _ = questions()
    model = tiny_model("roberta").bfloat16()

    scored = score(MaskedLanguageModeling(model), labels)

    assert (scored.terms["mlm"].sum.dtype, scored.rows.dtype) == (torch.float32, torch.float32)


def test_recipes_name_it_mlm(make_recipe: Callable[..., Recipe], vocabulary: Vocabulary) -> None:
    recipe = make_recipe({"objective.kind": "mlm"})

    built = load_objective("mlm").build(recipe, Facts(vocabulary=vocabulary, positions=32))

    assert isinstance(built, MaskedLanguageModeling)
    assert tuple(built.networks) == load_objective("mlm").networks
