"""What a run measures: sums over a window of steps, then one line of metrics.jsonl.

Fields of a line with kind "train", over the steps since the line before:
    step               optimizer steps taken
    epoch              passes over the training rows, as a fraction
    tokens             real (not padding) tokens trained since the start of the run
    loss               mean objective over predicted tokens, in nats
    accuracy           share of predicted tokens guessed right
    guidance_loss      what guidance added to the loss, weight included, mean per step
    guidance_weight    its weight in the last step
    guidance_error     pattern -> mean squared row error; null if no layer was looked at
    guidance_mass      pattern -> list over layers: mean attention on target; null where not looked at
    learning_rate      in the last step
    gradient_norm      in the last step, before clipping; null at ZeRO stage 0 in fp32 (DeepSpeed has none)
    tokens_per_second  real tokens, over all processes
    step_seconds       mean
    guidance_share     share of the time spent in the guidance terms, on the main process
    loader_share       share of the time spent waiting for batches, on the main process
Fields with kind "valid": step, loss, perplexity, accuracy, guidance_error, guidance_mass, seconds.
Every line also has "time" (UTC). A number that is not finite is written as null.
"""

import json
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from data_prep.files import write_atomically
from pipeline.distributed import Cluster
from pipeline.guidance.patterns import PatternHeads
from pipeline.run_dir import read_json_lines

_COUNTERS = ("loss", "predicted", "correct", "tokens", "guidance_loss", "steps")


class WindowSums:
    """Sums of a window, kept on the device so that reading them, once per window, is the only wait.

    The sums are part of a checkpoint: the first line after a resume covers the same steps as it would have
    without the interruption.
    """

    def __init__(self, num_layers: int, num_heads: int, device: torch.device) -> None:
        """For a model of `num_layers` layers with `num_heads` guided heads in each."""
        self.counters = torch.zeros(len(_COUNTERS), dtype=torch.float64, device=device)
        self.by_head = torch.zeros(3, num_layers, num_heads, dtype=torch.float64, device=device)

    def add(self, **values: torch.Tensor | float) -> None:
        """Add to the counters named in _COUNTERS."""
        for name, value in values.items():
            self.counters[_COUNTERS.index(name)] += (
                value.detach() if isinstance(value, torch.Tensor) else value
            )

    def add_guidance(
        self, layers: Sequence[int], errors: torch.Tensor, mass: torch.Tensor, valid: torch.Tensor
    ) -> None:
        """Add errors and mass (layers, heads) and the number of rows they sum over, (heads,)."""
        index = list(layers)
        self.by_head[0, index] += errors.detach()
        self.by_head[1, index] += mass.detach()
        self.by_head[2, index] += valid

    def state(self) -> dict[str, torch.Tensor]:
        """For a checkpoint."""
        return {"counters": self.counters.cpu(), "by_head": self.by_head.cpu()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Inverse of `state`."""
        self.counters.copy_(state["counters"])
        self.by_head.copy_(state["by_head"])

    def take(self, cluster: Cluster, groups: Sequence[PatternHeads]) -> dict[str, Any]:
        """Totals over all processes as plain numbers; the window starts anew. All processes call this."""
        counters, by_head = (
            cluster.sum(self.counters.clone()).tolist(),
            cluster.sum(self.by_head.clone()).cpu(),
        )
        self.counters.zero_()
        self.by_head.zero_()
        totals = dict(zip(_COUNTERS, counters))
        errors, mass = {}, {}
        for group in groups:
            error, hits, rows = by_head[:, :, group.first_head : group.end_head].sum(-1)
            errors[group.name] = _ratio(error.sum().item(), rows.sum().item())
            mass[group.name] = [_ratio(h, r) for h, r in zip(hits.tolist(), rows.tolist())]
        predicted = totals["predicted"] or math.nan
        return {
            "loss": totals["loss"] / predicted,
            "accuracy": totals["correct"] / predicted,
            "tokens": round(totals["tokens"]),
            "steps": round(totals["steps"] / cluster.world_size),
            "guidance_loss": totals["guidance_loss"] / (totals["steps"] / cluster.world_size or math.nan),
            "guidance_error": errors,
            "guidance_mass": mass,
        }


class MetricsLog:
    """metrics.jsonl and, if wanted, TensorBoard event files. Only the main process has one."""

    def __init__(self, path: Path, tensorboard: Path | None, first_step: int) -> None:
        """Continue the log of a run at `first_step`; lines of later steps, trained again now, are dropped."""
        kept = [line for line in read_json_lines(path) if line.get("step", 0) <= first_step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._writer: Any = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(tensorboard), purge_step=first_step + 1)

    def write(self, kind: str, line: dict[str, Any]) -> None:
        """Append a line."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._file.write(json.dumps(finite({"kind": kind, "time": now, **line}), allow_nan=False) + "\n")
        if self._writer is not None:
            for name, value in _flatten(line):
                self._writer.add_scalar(f"{kind}/{name}", value, line["step"])

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def finite(value: Any) -> Any:
    """The value with null for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _flatten(line: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers of a line by slash-separated name."""
    flat: list[tuple[str, float]] = []
    for key, value in line.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat += _flatten(value, f"{name}/")
        elif isinstance(value, list):
            flat += [(f"{name}/{i:02d}", item) for i, item in enumerate(value) if item is not None]
        elif isinstance(value, (int, float)) and name != "step":
            flat.append((name, value))
    return flat
