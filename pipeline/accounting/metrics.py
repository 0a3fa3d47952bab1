"""What a run measures: sums over a window of steps, then one line of metrics.jsonl.

Fields of a line with kind "train", over the steps since the line before. Steps that were skipped are in none
but `step`, `phase`, `epoch` and `skipped_steps`:
    step               optimizer steps taken
    phase              that of the last step, from 0; there are several with a `curriculum` only
    epoch              passes over the training rows of the phase's corpus, as a fraction
    skipped_steps      of these steps, those without an update: their loss or gradient was not finite, or the
                       run was taken back and passed them over
    rows_digest        fingerprint of the rows and masks that were trained, see data/digest.py
    tokens             real (not padding) tokens trained since the start of the run
    loss               mean objective over predicted tokens, in nats
    accuracy           share of predicted tokens guessed right
    guidance_loss      what guidance added to the loss, weight included, mean per step
    guidance_weight    its weight in the last step
    guidance_bias      what was added to the targets' scores in the last step
    guided_layers      layers looked at in the last step
    guidance_error     pattern -> mean row error; null if no layer was looked at
    guidance_mass      pattern -> list over layers: mean attention on target; null where not looked at
    learning_rate      in the last step
    gradient_norm      in the last step, before clipping
    tokens_per_second  real tokens, over all processes
    positions_per_second  the same with padding
    predicted_per_second  predicted tokens, over all processes
    model_flops_per_second  floating-point operations that the model needed for these steps, see flops.py,
                       over all processes
    mfu                the same per device, as a share of what the device could do at best, see
                       device_peaks.py; null where that is not known, as on any CPU
    step_seconds       mean, the writing of this log included
    step_seconds_p50, step_seconds_p95
                       percentiles over the steps that were tried, on the main process; see
                       training/timings.py
    guidance_share     share of the time spent in the guidance terms, on the main process
    loader_share       share of the time spent waiting for batches, on the main process
    communication_share  share of the time in exchanges between processes, on the main process, the wait for
                       slower ones included; null on CUDA, where they run beside all else: see train --profile
    peak_memory_bytes  the most that any process has had since it started: of the CUDA allocator or, on CPU,
                       resident
Rates and shares are over the time in steps, tried or taken, and in the writing of this log; evaluation and
checkpoints are not in it.
Fields with kind "valid": step, loss, perplexity, accuracy, guidance_error, guidance_mass, seconds.
Every line also has "time" (UTC). A number that is not finite is written as null.
"""

import json
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from data_prep.files import write_atomically
from pipeline.data.digest import fold_step
from pipeline.guidance.allocation import Allocation
from pipeline.guidance.guide import GuidanceTerms
from pipeline.guidance.schedule import GuidedStep
from pipeline.processes.cluster import Cluster
from pipeline.runs.run_dir import read_json_lines

# Fields that differ between two runs of the same numbers.
MEASURED_FIELDS = frozenset(
    {
        *("time", "seconds", "peak_memory_bytes", "mfu"),
        *("tokens_per_second", "positions_per_second", "predicted_per_second", "model_flops_per_second"),
        *("step_seconds", "step_seconds_p50", "step_seconds_p95"),
        *("guidance_share", "loader_share", "communication_share"),
    }
)
_COUNTERS = (
    *("loss", "predicted", "correct", "tokens", "positions", "flops"),
    *("guidance_loss", "steps", "skipped_steps"),
)


class WindowSums:
    """Sums of a window, kept on the device so that reading them, once per window, is the only wait.

    The sums are part of a checkpoint: the first line after a resume covers the same steps as it would have
    without the interruption.
    """

    def __init__(self, allocation: Allocation, device: torch.device) -> None:
        """For a model with these guided heads."""
        self.allocation = allocation
        self.counters = torch.zeros(len(_COUNTERS), dtype=torch.float64, device=device)
        shape = (3, len(allocation.layers), allocation.num_heads)
        self.by_head = torch.zeros(shape, dtype=torch.float64, device=device)
        self.digest = 0

    def add(self, **values: torch.Tensor | float) -> None:
        """Add to the counters named in _COUNTERS."""
        for name, value in values.items():
            self.counters[_COUNTERS.index(name)] += (
                value.detach() if isinstance(value, torch.Tensor) else value
            )

    def add_guidance(self, guided: GuidedStep, terms: GuidanceTerms) -> None:
        """Add the terms of the layers looked at."""
        index = torch.tensor([layer.layer for layer in guided.layers], dtype=torch.long)
        values = torch.stack([terms.errors.detach(), terms.mass, terms.rows]).double()
        self.by_head.index_add_(1, index.to(values.device, non_blocking=True), values)

    def add_sums(self, step: "WindowSums") -> None:
        """Add what was summed for a single step."""
        self.counters += step.counters
        self.by_head += step.by_head

    def add_digest(self, step: int, digest: int) -> None:
        """Take the digest of a step's rows, which is the same on all processes."""
        self.digest = fold_step(self.digest, step, digest)

    def clear(self) -> None:
        """Begin anew."""
        self.counters.zero_()
        self.by_head.zero_()
        self.digest = 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint. Tensors are this process's share of a sum, all else is the same everywhere."""
        return {
            "counters": self.counters.cpu(),
            "by_head": self.by_head.cpu(),
            "heads": self.allocation.describe(),
            "digest": self.digest,
        }

    def restore(self, state: dict[str, Any]) -> bool:
        """Inverse of `state`; False if other heads were guided then, whose sums are left out."""
        self.counters.copy_(state["counters"])
        self.digest = state["digest"]
        same_heads = state["heads"] == self.allocation.describe()
        if same_heads:
            self.by_head.copy_(state["by_head"])
        return same_heads

    def take(self, cluster: Cluster) -> dict[str, Any]:
        """Totals over all processes as plain numbers; the window starts anew. All processes call this."""
        counters, by_head = (
            cluster.sum(self.counters.clone()).tolist(),
            cluster.sum(self.by_head.clone()).cpu(),
        )
        digest = f"{self.digest:016x}"
        self.clear()
        totals = dict(zip(_COUNTERS, counters))
        errors, mass = {}, {}
        for name in self.allocation.names:
            error, hits, rows = self._sums_of(name, by_head)
            errors[name] = _ratio(error.sum().item(), rows.sum().item())
            mass[name] = [_ratio(h, r) for h, r in zip(hits.tolist(), rows.tolist())]
        predicted = totals["predicted"] or math.nan
        return {
            "loss": totals["loss"] / predicted,
            "accuracy": totals["correct"] / predicted,
            "tokens": round(totals["tokens"]),
            "steps": round(totals["steps"]),
            "skipped_steps": round(totals["skipped_steps"]),
            "predicted": round(totals["predicted"]),
            "positions": round(totals["positions"]),
            "flops": totals["flops"],
            "rows_digest": digest,
            "guidance_loss": totals["guidance_loss"] / (totals["steps"] or math.nan),
            "guidance_error": errors,
            "guidance_mass": mass,
        }

    def _sums_of(self, name: str, by_head: torch.Tensor) -> torch.Tensor:
        """Errors, mass and rows of a pattern's heads, by layer, (3, layers)."""
        sums = by_head.new_zeros(by_head.shape[:2])
        for layer, groups in enumerate(self.allocation.layers):
            for group in groups:
                if group.name == name:
                    sums[:, layer] += by_head[:, layer, group.first_head : group.end_head].sum(-1)
        return sums


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
