"""How fast a device could multiply matrices at best, from its maker's data sheet.

Dense figures: the sparse ones that data sheets like to print are twice as large. What is not in the table has
no peak, and what is trained on it no MFU: a guess would be read as a fact.
"""

import re
from typing import Literal

import torch

NumberFormat = Literal["fp32", "tf32", "fp16", "bf16"]

_TERA = 1e12
# Device names as the driver tells them -> TFLOP/s of fp32 without tensor cores, and of tf32, fp16 and bf16
# with them, accumulating in fp32; None where the device has none. The first match counts.
_PEAKS: list[tuple[str, tuple[float | None, float | None, float | None, float | None]]] = [
    # https://www.nvidia.com/en-us/data-center/h200/ ; the NVL card runs at a lower power.
    (r"\bH200 NVL\b", (60.0, 417.5, 835.5, 835.5)),
    (r"\bH200\b", (67.0, 494.7, 989.4, 989.4)),
    # https://www.nvidia.com/en-us/data-center/h100/ and its white paper, table 2. The PCIe card has HBM2e.
    (r"\bH100 NVL\b", (60.0, 417.5, 835.5, 835.5)),
    (r"\bH100\b.*(PCIe|HBM2e)", (51.2, 378.0, 756.0, 756.0)),
    (r"\bH100\b.*(SXM|HBM3)|\bGH200\b", (66.9, 494.7, 989.4, 989.4)),
    # https://www.nvidia.com/en-us/data-center/a100/ ; the same for SXM and PCIe, 40 and 80 GB.
    (r"\bA100\b", (19.5, 156.0, 312.0, 312.0)),
    # https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf
    (r"\bV100-SXM", (15.7, None, 125.0, None)),
    (r"\bV100-PCIE", (14.0, None, 112.0, None)),
    # https://www.nvidia.com/en-us/data-center/l40s/ and .../l40/
    (r"\bL40S\b", (91.6, 183.0, 362.05, 362.05)),
    (r"\bL40\b", (90.5, 90.5, 181.05, 181.05)),
    # https://www.nvidia.com/en-us/data-center/l4/
    (r"\bL4\b", (30.3, 60.0, 121.0, 121.0)),
    # https://d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf
    (r"\bA10G\b", (35.0, 35.0, 70.0, 70.0)),
    # https://www.nvidia.com/en-us/data-center/products/a10-gpu/
    (r"\bA10\b", (31.2, 62.5, 125.0, 125.0)),
    # https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html ; fp32 by matrix cores.
    (r"\bMI300X\b", (163.4, 653.7, 1307.4, 1307.4)),
    # https://www.amd.com/en/products/accelerators/instinct/mi200/mi250x.html ; half a card: two devices.
    (r"\bMI250X\b", (47.9, None, 191.5, 191.5)),
]
_FORMATS: tuple[NumberFormat, ...] = ("fp32", "tf32", "fp16", "bf16")


def peak_flops_per_second(device_name: str, number_format: NumberFormat) -> float | None:
    """Dense matrix FLOP/s of a device, by the name its driver tells; None where that is not known.

    A slice of a device (MIG) has none either: its name does not tell all that it shares.
    """
    if re.search(r"\bMIG\b", device_name):
        return None
    for pattern, peaks in _PEAKS:
        if re.search(pattern, device_name):
            tflops = peaks[_FORMATS.index(number_format)]
            return None if tflops is None else tflops * _TERA
    return None


def peak_of(device: torch.device, precision: Literal["fp32", "bf16", "fp16"]) -> float | None:
    """The peak of this process's device for a recipe's precision; None on CPU.

    In fp32 it is that of tf32 where torch has been allowed to multiply so.
    """
    if device.type != "cuda":
        return None
    number_format: NumberFormat = precision
    if precision == "fp32" and torch.backends.cuda.matmul.allow_tf32:
        number_format = "tf32"
    return peak_flops_per_second(torch.cuda.get_device_name(device), number_format)
