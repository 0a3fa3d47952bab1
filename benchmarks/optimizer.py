"""How long an optimizer takes over one flat tensor in host memory, as ZeRO gives it when offloaded.

    python -m benchmarks.optimizer [--millions 20] [--repeats 7] [--threads 1] [--deepspeed]

    loop        torch's AdamW as it is by default on CPU, one pass over memory per operation
    foreach     the same operations, on lists of tensors
    fused       torch's AdamW in one pass; what recipes get
    deepspeed   DeepSpeedCPUAdam, with --deepspeed: it compiles itself first, which takes minutes
    lamb        ours, with the tensor cut into matrices of 768 x 768

All take turns, and the median counts. "error" is the largest difference from "loop" in a weight afterwards,
over the learning rate (not for LAMB, which is another method). The last line is one JSON object; its
`speedup` is that of "fused" over "loop".
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.output import tell
from pipeline.optimizers.lamb import Lamb
from pipeline.optimizers.pieces import Layout, Piece
from pipeline.processes.cluster import Cluster

_SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.01}
_MATRIX = 768 * 768


def make_weight(size: int) -> torch.nn.Parameter:
    """A flat tensor with a gradient."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(0.02 * torch.randn(size, generator=generator))
    weight.grad = 1e-3 * torch.randn(size, generator=generator)
    return weight


def make_optimizer(kind: str, weight: torch.nn.Parameter) -> torch.optim.Optimizer:
    """One of the contenders for a flat tensor."""
    if kind == "lamb":
        lamb = Lamb([{"params": [weight]}], **_SETTINGS)
        lamb.param_groups[0]["has_trust_ratio"] = True
        starts = range(0, weight.numel(), _MATRIX)
        pieces = [
            Piece(number, start, min(_MATRIX, weight.numel() - start)) for number, start in enumerate(starts)
        ]
        lamb.set_layouts({weight: Layout(len(pieces), pieces, weight.device)})
        return lamb
    if kind == "deepspeed":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam([weight], adamw_mode=True, **_SETTINGS)
    how = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}[kind]
    return torch.optim.AdamW([weight], **_SETTINGS, **how)  # type: ignore[arg-type]


def measure(kinds: list[str], size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds per step and error of each contender; the first step, which makes states, is left out."""
    weights = {kind: make_weight(size) for kind in kinds}
    optimizers = {kind: make_optimizer(kind, weights[kind]) for kind in kinds}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats + 1):
        for kind, optimizer in optimizers.items():
            started = time.perf_counter()
            optimizer.step()
            seconds[kind].append(time.perf_counter() - started)
    return {
        kind: {
            "milliseconds": 1000 * statistics.median(seconds[kind][1:]),
            "error": float((weights[kind] - weights["loop"]).abs().max()) / _SETTINGS["lr"],
        }
        for kind in kinds
    }


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=float, default=20.0, help="size of the tensor")
    parser.add_argument("--repeats", type=int, default=7, help="steps measured of each")
    parser.add_argument("--threads", type=int, default=1, help="of one process")
    parser.add_argument("--deepspeed", action="store_true", help="compile and measure DeepSpeedCPUAdam, too")
    parser.add_argument("--out", type=Path, help="write the JSON object there, too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cluster = Cluster.single()
    cluster.start()
    kinds = ["loop", "foreach", "fused", *(["deepspeed"] if arguments.deepspeed else []), "lamb"]
    size = round(arguments.millions * 1e6)
    found = measure(kinds, size, arguments.repeats)
    cluster.stop()
    print(f"{size} float32 weights, {arguments.threads} thread(s)\n{'':<10} {'ms/step':>8} {'error':>9}")
    for kind, numbers in found.items():
        error = "" if kind == "lamb" else f"{numbers['error']:9.1e}"
        print(f"{kind:<10} {numbers['milliseconds']:8.1f} {error}")
    speedup = found["loop"]["milliseconds"] / found["fused"]["milliseconds"]
    tell({"weights": size, "threads": arguments.threads, "speedup": speedup, **found}, arguments.out)


if __name__ == "__main__":
    main()
