"""Norms on CPU, against float64: torch's own in float32 lose the smaller part of a large tensor."""

import pytest
import torch

from pipeline.optimizers.norms import norms_of, total_norm

SIZES = [1, 1023, 1 << 15, (1 << 15) + 1, 1_000_000, 3_000_001]


def exact(*tensors: torch.Tensor) -> float:
    return torch.stack([tensor.double().norm() for tensor in tensors]).norm().item()


def normal(size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("size", SIZES)
def test_normally_distributed_values(size: int) -> None:
    assert norms_of([normal(size)])[0].item() == pytest.approx(exact(normal(size)), rel=5e-7)


@pytest.mark.parametrize("size", [(1 << 15) + 1, 3_000_001])
@pytest.mark.parametrize("value", [0.1, 3e-4, -7e3])
def test_equal_values_whose_rounding_does_not_cancel(size: int, value: float) -> None:
    values = torch.full((size,), value)

    assert norms_of([values])[0].item() == pytest.approx(exact(values), rel=1e-6)
    assert abs(values.norm().item() / exact(values) - 1) > 2e-6  # what it is for


def test_shapes_and_strides_make_no_difference() -> None:
    matrix = normal(1_000_000).view(1000, 1000)
    every_second, transposed = matrix[:, ::2], matrix.T

    norms = norms_of([matrix, every_second, transposed])

    assert [norm.shape for norm in norms] == [torch.Size([])] * 3
    assert [norm.dtype for norm in norms] == [torch.float32] * 3
    expected = [exact(tensor) for tensor in (matrix, every_second, transposed)]
    assert [norm.item() for norm in norms] == pytest.approx(expected, rel=5e-7)


def test_small_tensors_have_the_bits_of_torchs_norm() -> None:
    """So that what small models are clipped by is what it always was."""
    tensors = [normal(size) for size in (7, 20_480, 1 << 15)]

    assert norms_of(tensors) == [tensor.norm() for tensor in tensors]
    assert total_norm(tensors) == torch.nn.utils.get_total_norm(tensors)


def test_of_all_tensors_together() -> None:
    tensors = [normal(3_000_001), torch.full((2_000_000,), 0.1), normal(5)]

    assert total_norm(tensors).item() == pytest.approx(exact(*tensors), rel=5e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 99_999])
def test_what_is_not_finite_is_not_hidden(bad: float, place: int) -> None:
    values = torch.ones(100_000)
    values[place] = bad

    assert not torch.isfinite(total_norm([values, torch.ones(3)]))


def test_nothing_has_no_length() -> None:
    assert norms_of([]) == []
    assert total_norm([]) == 0.0
    assert norms_of([torch.zeros(0)])[0] == 0.0


@pytest.mark.gpu
@pytest.mark.parametrize("value", ["normal", "equal"])
def test_on_cuda_torchs_own_norms_are_accurate(value: str) -> None:
    tensor = (normal(40_000_000) if value == "normal" else torch.full((40_000_000,), 0.1)).cuda()

    assert norms_of([tensor])[0].item() == pytest.approx(exact(tensor), rel=1e-6)
