"""What this machine gets out of a large matrix product: the peak that a CPU's data sheet does not tell."""

import time

import torch


def measured_peak_flops_per_second(
    device: torch.device, dtype: torch.dtype = torch.float32, size: int = 1536, rounds: int = 12
) -> float:
    """FLOP/s of the fastest of some products of two square matrices, with all the threads torch may use."""
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    fastest = min(_seconds(left, right) for _ in range(rounds))
    return 2 * size**3 / fastest


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    _wait_for(left.device)
    started = time.perf_counter()
    left @ right
    _wait_for(left.device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
