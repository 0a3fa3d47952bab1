"""LAMB of whole parameters, against the paper's formulas; cut by ZeRO: tests/e2e/test_lamb.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.optimizers.lamb import Lamb, trust_ratio
from tests.pipeline.optimizers.reference_lamb import ReferenceLamb

SETTINGS = {"lr": 0.05, "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.1}


def make_lamb(weights: list[torch.Tensor]) -> Lamb:
    matrices = [weight for weight in weights if weight.ndim >= 2]
    vectors = [weight for weight in weights if weight.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return Lamb([group for group in groups if group["params"]], **SETTINGS)


@given(
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=4),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
    seed=st.integers(0, 1000),
)
def test_steps_are_those_of_the_paper(shapes: list[list[int]], scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [(scale * torch.randn(shape, generator=generator)).requires_grad_() for shape in shapes]
    reference = ReferenceLamb(weights, betas=SETTINGS["betas"], eps=SETTINGS["eps"], decay=0.1)
    lamb = make_lamb(weights)
    for _ in range(5):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        lamb.step()
        reference.step([weight.grad for weight in weights], SETTINGS["lr"])
        for weight, expected in zip(weights, reference.weights):
            torch.testing.assert_close(
                weight.detach(), expected.float(), rtol=1e-4, atol=1e-5 * (scale or 1.0)
            )


def test_a_matrix_moves_by_a_share_of_its_norm_and_a_vector_as_with_adam() -> None:
    matrix, vector = torch.full((4, 4), 3.0), torch.full((4,), 3.0)
    lamb = Lamb([{"params": [matrix]}, {"params": [vector]}], **{**SETTINGS, "weight_decay": 0.0})
    matrix.grad, vector.grad = torch.full((4, 4), 1e-2), torch.full((4,), 1e-2)
    lamb.step()
    torch.testing.assert_close(matrix, torch.full((4, 4), 3.0 - SETTINGS["lr"] * 3.0))
    torch.testing.assert_close(vector, torch.full((4,), 3.0 - SETTINGS["lr"]), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(
    ("weight", "update", "ratio"), [(6.0, 3.0, 2.0), (0.0, 3.0, 1.0), (6.0, 0.0, 1.0), (0.0, 0.0, 1.0)]
)
def test_trust_ratio_is_1_where_a_norm_is_0(weight: float, update: float, ratio: float) -> None:
    assert trust_ratio(torch.tensor(weight), torch.tensor(update)) == ratio


def test_states_are_those_of_adamw() -> None:
    """So that a checkpoint is turned for another number of processes the same way."""
    ours, theirs = (torch.ones(3, 2, requires_grad=True) for _ in range(2))
    optimizers = make_lamb([ours]), torch.optim.AdamW([theirs])
    for weight, optimizer in zip((ours, theirs), optimizers):
        weight.grad = torch.ones(3, 2)
        optimizer.step()
    found, expected = (next(iter(optimizer.state.values())) for optimizer in optimizers)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype)
    assert found["step"] == 1.0
