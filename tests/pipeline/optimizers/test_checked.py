import pytest
import torch

from pipeline.optimizers.checked import CheckedAdamW, CheckedLamb
from pipeline.optimizers.lamb import Lamb

SETTINGS = {"lr": 0.1, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.01}
KINDS = {"adamw": (CheckedAdamW, torch.optim.AdamW), "lamb": (CheckedLamb, Lamb)}


def weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, generator=generator).requires_grad_() for _ in range(2)]


def give(parameters: list[torch.Tensor], scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.grad = scale * torch.randn(3, 4, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_norm", [0.0, 1.0, 100.0])
def test_finite_gradients_are_clipped_and_taken(max_norm: float, kind: str) -> None:
    ours, theirs = weights(), weights()
    checked_class, plain_class = KINDS[kind]
    checked = checked_class([{"params": ours}], max_norm=max_norm, **SETTINGS)
    plain = plain_class([{"params": theirs}], **SETTINGS)
    for scale in (1.0, 3.0):
        give(ours, scale)
        give(theirs, scale)
        norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm or float("inf"))
        plain.step()
        checked.step()
        assert checked._global_grad_norm == norm
        assert not checked.overflow
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e38], ids=["nan", "inf", "norm overflows"])
def test_other_gradients_leave_everything_as_it_is(max_norm: float, bad: float, kind: str) -> None:
    parameters = weights()
    optimizer = KINDS[kind][0]([{"params": parameters}], max_norm=max_norm, **SETTINGS)
    give(parameters)
    optimizer.step()
    before = [parameter.detach().clone() for parameter in parameters]
    state = {p: {key: value.clone() for key, value in optimizer.state[p].items()} for p in parameters}

    give(parameters)
    parameters[1].grad[2] = bad
    optimizer.step()

    assert optimizer.overflow
    assert all(torch.equal(a, b) for a, b in zip(parameters, before))
    for parameter in parameters:
        assert all(
            torch.equal(value, state[parameter][key]) for key, value in optimizer.state[parameter].items()
        )

    give(parameters)
    optimizer.step()
    assert not optimizer.overflow
    assert not torch.equal(parameters[0], before[0])
