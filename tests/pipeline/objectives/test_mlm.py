"""Scoring the masked tokens only, against transformers' own loss over all of them."""

import pytest
import torch

from pipeline.data.masking import IGNORED_LABEL
from pipeline.objectives import OBJECTIVES
from pipeline.objectives.mlm import MaskedLanguageModeling
from tests.pipeline.tiny_models import FAMILIES, LENGTH, LENGTHS, tiny_inputs, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)
POSITIONS = torch.tensor([[1, 22, 7], [8, 2, 0], [5, 16, 3], [1, 0, 0]])
IS_ASKED = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)


def questions() -> tuple[torch.Tensor, torch.Tensor]:
    """Labels per asked position (B, K), and the same spread over all tokens (B, T)."""
    answers = torch.randint(5, 97, POSITIONS.shape, generator=torch.Generator().manual_seed(2))
    labels = torch.where(IS_ASKED, answers, IGNORED_LABEL)
    dense = torch.full((len(LENGTHS), LENGTH), IGNORED_LABEL)
    for row, slot in IS_ASKED.nonzero().tolist():
        dense[row, POSITIONS[row, slot]] = labels[row, slot]
    return labels, dense


@every_family
@pytest.mark.parametrize("lengths", [LENGTHS, [LENGTH] * 4], ids=["padded", "full"])
def test_loss_and_gradients_are_those_of_the_dense_loss(family: str, lengths: list[int]) -> None:
    labels, dense_labels = questions()
    inputs = tiny_inputs(lengths)
    mask = inputs["attention_mask"] if lengths is LENGTHS else None
    objective, reference = MaskedLanguageModeling(tiny_model(family)), tiny_model(family)

    loss, losses, _ = objective(inputs["input_ids"], mask, POSITIONS, labels)
    loss.backward()
    expected = reference(**inputs, labels=dense_labels).loss * IS_ASKED.sum()
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.sum().item() == pytest.approx(loss.item(), rel=1e-6)
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

    _, losses, _ = MaskedLanguageModeling(model)(
        inputs["input_ids"], inputs["attention_mask"], POSITIONS, labels
    )

    for row, loss in enumerate(losses.tolist()):
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

    _, _, correct = MaskedLanguageModeling(model)(
        inputs["input_ids"], inputs["attention_mask"], POSITIONS, labels
    )

    assert correct.item() == IS_ASKED.sum().item() - 1


def test_nothing_asked_costs_nothing() -> None:
    inputs = tiny_inputs()

    total, losses, correct = MaskedLanguageModeling(tiny_model("bert"))(
        inputs["input_ids"],
        inputs["attention_mask"],
        torch.zeros(4, 3, dtype=torch.long),
        torch.full((4, 3), IGNORED_LABEL),
    )

    total.backward()

    assert (total.item(), losses.tolist()) == (0.0, [0.0] * 4)
    assert correct.item() == 0


def test_loss_is_summed_in_float32_whatever_the_models_type() -> None:
    labels, _ = questions()
    inputs = tiny_inputs()
    model = tiny_model("roberta").bfloat16()

    total, losses, _ = MaskedLanguageModeling(model)(
        inputs["input_ids"], inputs["attention_mask"], POSITIONS, labels
    )

    assert (total.dtype, losses.dtype) == (torch.float32, torch.float32)


def test_recipes_name_it_mlm() -> None:
    assert OBJECTIVES["mlm"] is MaskedLanguageModeling
