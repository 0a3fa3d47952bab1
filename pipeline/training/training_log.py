"""What a run tells while it trains, in metrics.jsonl and on the terminal, and what that is counted from."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipeline.accounting.device_peaks import peak_of
from pipeline.accounting.metrics import MetricsLog, WindowSums, values_of
from pipeline.accounting.resident import resident_peak_bytes
from pipeline.config.schema import Recipe
from pipeline.data.batches import PhasedBatches
from pipeline.data.phases import phase_at
from pipeline.objectives import load_objective
from pipeline.objectives.protocol import Regularizer
from pipeline.processes.cluster import Cluster
from pipeline.runs.run_dir import RunDir
from pipeline.training.learning_rate import learning_rate_at
from pipeline.training.progress import Progress
from pipeline.training.timings import Timings

logger = logging.getLogger(__name__)


class TrainingLog:
    """Lines of a run. Every process calls the same methods; the main one writes."""

    name = "log"

    def __init__(
        self,
        recipe: Recipe,
        run: RunDir,
        cluster: Cluster,
        window: WindowSums,
        batches: PhasedBatches,
    ) -> None:
        """Of a run whose steps train `batches` and add to `window`; `regularizers` add fields."""
        self.recipe, self.run, self.cluster, self.window = recipe, run, cluster, window
        self.regularizers: Sequence[Regularizer] = ()
        self._objective = load_objective(recipe.objective.kind)
        self.timings = Timings(cluster.device)
        self._batches = batches
        self._peak = peak_of(cluster.device, recipe.train.precision)
        self._tokens = 0
        self._metrics: MetricsLog | None = None
        self._progress: Progress | None = None

    def open(self, step: int) -> None:
        """Begin to write, or go on, at `step`; lines of later steps are dropped."""
        self.close()
        if self.cluster.is_main:
            tensorboard = self.run.tensorboard if self.recipe.logging.tensorboard else None
            self._metrics = MetricsLog(self.run.metrics_file, tensorboard, step)
            has_phases = len(self._batches.phases) > 1
            self._progress = Progress(self.recipe.train.num_steps, step, has_phases=has_phases)

    def close(self) -> None:
        """End it."""
        if self._metrics is not None and self._progress is not None:
            self._progress.close()
            self._metrics.close()

    def step_done(self) -> None:
        """Show that a step is over."""
        if self._progress is not None:
            self._progress.step_done()

    def write_training(self, step: int, gradient_norm: float | None) -> None:
        """Write the line of the window that ends after `step` steps, and begin a new one.

        Args:
            step: number of steps taken.
            gradient_norm: of the last one, before clipping; None if it had no gradient.
        """
        with self.timings.counted():
            digest = f"{self.window.digest:016x}"
            totals = defaultdict(lambda: torch.zeros(()), self.window.take(self.cluster))
            peak_memory = max(self.cluster.gather(peak_memory_bytes(self.cluster.device)))
        self._tokens += round(float(totals["tokens"]))
        line = {
            **values_of(self._objective.metrics, totals, held_out=False),
            "step": step,
            "phase": phase_at(self._batches.phases, step - 1),
            "epoch": self._batches.part_of(step - 1).epochs_before(step),
            "skipped_steps": round(float(totals["skipped_steps"])),
            "rows_digest": digest,
            "tokens": self._tokens,
            "learning_rate": learning_rate_at(self.recipe, step - 1),
            "gradient_norm": gradient_norm,
            **self._speed({name: float(value) for name, value in totals.items() if value.ndim == 0}),
            "peak_memory_bytes": peak_memory,
        }
        for regularizer in self.regularizers:
            line |= regularizer.line(step - 1, totals)
        with self.timings.counted():  # of the next window
            if self._metrics is not None and self._progress is not None:
                self._metrics.write("train", line)
                self._progress.show(line)

    def write_valid(self, step: int, line: dict[str, Any]) -> None:
        """Write the line of an evaluation."""
        if self._metrics is not None:
            self._metrics.write("valid", {"step": step, **line})
            logger.info("step %d/%d  held-out loss %.4f", step, self.recipe.train.num_steps, line["loss"])

    def state(self) -> dict[str, Any]:
        """For a checkpoint, beside that of the window."""
        return {"tokens": self._tokens, "times": self.timings.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self._tokens = state["tokens"]
        self.timings.restore(state["times"])

    def _speed(self, totals: Mapping[str, float]) -> dict[str, float | None]:
        """Rates over the window and shares of it, from its totals over all processes."""
        times, steps = self.timings.take(), totals.get("steps", 0.0)
        flops_per_second = totals.get("flops", 0.0) / times.total
        per_device = flops_per_second / self.cluster.world_size
        on_cuda = self.cluster.device.type == "cuda"
        return {
            "tokens_per_second": totals.get("tokens", 0.0) / times.total,
            "positions_per_second": totals.get("positions", 0.0) / times.total,
            "predicted_per_second": totals.get(self._objective.metrics[0].per, 0.0) / times.total,
            "model_flops_per_second": flops_per_second,
            "mfu": None if self._peak is None else per_device / self._peak,
            "step_seconds": times.total / steps if steps else None,
            "step_seconds_p50": times.step_percentile(50),
            "step_seconds_p95": times.step_percentile(95),
            "guidance_share": times.share(times.guidance),
            "loader_share": times.share(times.loader),
            "communication_share": None if on_cuda else times.share(times.exchanges),
        }


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory that this process has had since it started: of the CUDA allocator, or resident on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_peak_bytes()
