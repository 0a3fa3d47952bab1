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
    loss, ...          the objective's metrics, see `metrics` in its objective.py; of masked language
                       modelling loss, mean over predicted tokens in nats, and accuracy, share guessed right
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
    predicted_per_second  what `loss` is a mean over: predicted tokens of masked language modelling, over all
                       processes
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
A second guided network has the same guidance fields with its name in front, such as generator_guidance_loss.
Fields with kind "valid": step, the objective's metrics, guidance_error, guidance_mass, seconds.
Every line also has "time" (UTC). A number that is not finite is written as null.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from data_prep.files import write_atomically
from pipeline.data.digest import fold_step
from pipeline.objectives.protocol import Metric
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
# What version 1 of a checkpoint's window had, by place.
_COUNTERS_OF_VERSION_1 = (
    *("loss", "predicted", "correct", "tokens", "positions", "flops"),
    *("guidance_loss", "steps", "skipped_steps"),
)


class WindowSums:
    """Sums of a window by name, kept on the device so that reading them, once per window, is the only wait.

    The sums are part of a checkpoint: the first line after a resume covers the same steps as it would have
    without the interruption. A sum may have any shape. All processes have the same names.
    """

    name = "window"

    def __init__(self, device: torch.device) -> None:
        """Nothing summed."""
        self._device = device
        self._sums: dict[str, torch.Tensor] = {}
        self._numbers: dict[str, float] = {}  # known in host memory
        self.digest = 0

    def add(self, values: Mapping[str, torch.Tensor | float]) -> None:
        """Add to the sums of these names."""
        for name, value in values.items():
            if not isinstance(value, torch.Tensor):
                self._numbers[name] = self._numbers.get(name, 0.0) + value
            elif name in self._sums:
                self._sums[name] += value.detach()
            else:
                self._sums[name] = value.detach().double().clone()

    def add_sums(self, step: "WindowSums") -> None:
        """Add what was summed for a single step."""
        self.add({**step._sums, **step._numbers})

    def add_digest(self, step: int, digest: int) -> None:
        """Take the digest of a step's rows, which is the same on all processes."""
        self.digest = fold_step(self.digest, step, digest)

    def state(self) -> dict[str, Any]:
        """For a checkpoint. Tensors are this process's share of a sum, all else is the same everywhere."""
        sums = {f"sum {name}": values.cpu() for name, values in self._together().items()}
        return {**sums, "digest": self.digest}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.digest, self._numbers = state["digest"], {}
        self._sums = {
            name.removeprefix("sum "): values.to(self._device)
            for name, values in state.items()
            if name.startswith("sum ")
        }

    def take(self, cluster: Cluster) -> dict[str, torch.Tensor]:
        """Totals over all processes, in host memory; the window starts anew. All processes call this."""
        mine = dict(sorted(self._together().items()))
        flat = torch.cat(
            [torch.zeros(0, device=self._device), *(values.flatten() for values in mine.values())]
        )
        summed = cluster.sum(flat.double()).cpu().split([values.numel() for values in mine.values()])
        self._sums, self._numbers, self.digest = {}, {}, 0
        return {name: part.view(mine[name].shape) for name, part in zip(mine, summed)}

    def _together(self) -> dict[str, torch.Tensor]:
        """All sums on the device, those of numbers copied there at once."""
        numbers = torch.tensor(list(self._numbers.values()), dtype=torch.float64).to(self._device)
        together = dict(self._sums)
        for name, value in zip(self._numbers, numbers):
            together[name] = together[name] + value if name in together else value
        return together


def window_of_version_1(window: dict[str, Any], by_head: str) -> dict[str, Any]:
    """A window's state as it is now, from one whose counters had places; `by_head` names guidance's sums."""
    counters = dict(zip(_COUNTERS_OF_VERSION_1, window["counters"]))
    sums = {f"sum {name}": value for name, value in counters.items()}
    return {**sums, f"sum {by_head}": window["by_head"], "digest": window["digest"]}


def values_of(
    metrics: Sequence[Metric], totals: Mapping[str, torch.Tensor], *, held_out: bool
) -> dict[str, float]:
    """An objective's metrics from the sums of a window; NaN for one whose denominator is zero."""
    found = {}
    for metric in metrics:
        if held_out or not metric.only_held_out:
            numerator, denominator = float(totals.get(metric.of, 0.0)), float(totals.get(metric.per, 0.0))
            found[metric.name] = metric.transform(numerator / (denominator or math.nan))
    return found


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
