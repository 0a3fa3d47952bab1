"""Names as drivers tell them find the right line of the table, and what is not in it finds none."""

import pytest
import torch

from pipeline.accounting.device_peaks import peak_flops_per_second, peak_of


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("AMD Instinct MI250X", 191.5),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_bf16_peak(name: str, tflops: float) -> None:
    assert peak_flops_per_second(name, "bf16") == pytest.approx(tflops * 1e12)


def test_formats_of_a_device_differ() -> None:
    found = [peak_flops_per_second("NVIDIA A100-SXM4-40GB", name) for name in ("fp32", "tf32", "fp16")]

    assert found == [19.5e12, 156e12, 312e12]


def test_a_device_without_tensor_cores_for_a_format_has_no_peak_for_it() -> None:
    assert peak_flops_per_second("Tesla V100-SXM2-32GB", "fp16") == 125e12
    assert peak_flops_per_second("Tesla V100-SXM2-32GB", "bf16") is None


@pytest.mark.parametrize(
    "name",
    ["", "NVIDIA GeForce GT 1030", "NVIDIA A1000", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA H1000"],
)
def test_what_is_not_known_has_no_peak(name: str) -> None:
    assert peak_flops_per_second(name, "fp16") is None


def test_a_cpu_has_no_peak() -> None:
    assert peak_of(torch.device("cpu"), "fp32") is None
