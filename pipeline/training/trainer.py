"""The loop over optimizer steps and what happens between them: logs, evaluation, checkpoints, stops."""

import logging
import time
from collections.abc import Iterator

import torch

from pipeline.build import Corpus, build_guidance, build_pretraining_module
from pipeline.checkpoints.checkpoint import (
    delete_checkpoint,
    list_checkpoints,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
    step_of,
    to_delete,
)
from pipeline.config.deepspeed_json import zero_stage
from pipeline.config.schema import Recipe
from pipeline.data.batches import BatchGeometry, MicroBatch, StepBatches, load_steps
from pipeline.data.counter_rng import make_keys
from pipeline.engine import start_engine
from pipeline.evaluation.attention_snapshot import (
    Snapshot,
    pick_sentence,
    record_attention,
    snapshot_steps,
    write_snapshot,
)
from pipeline.evaluation.held_out import evaluate_held_out
from pipeline.guidance.timer import CLOCK
from pipeline.metrics import MetricsLog, WindowSums
from pipeline.processes.cluster import Cluster
from pipeline.processes.stop import StopRequest
from pipeline.runs.run_dir import RunDir
from pipeline.runs.start import Start
from pipeline.training.learning_rate import learning_rate_at
from pipeline.training.progress import Progress
from pipeline.training.step import StepRunner

logger = logging.getLogger(__name__)


class Trainer:
    """Everything a run needs while it trains."""

    def __init__(
        self, recipe: Recipe, run: RunDir, cluster: Cluster, deepspeed_config: dict, start: Start
    ) -> None:
        """Build the run's objects and, if there is one, load its checkpoint."""
        self.recipe, self.run, self.cluster = recipe, run, cluster
        self.step = start.step
        corpus = Corpus.open(recipe.corpus)
        module = build_pretraining_module(recipe, corpus)
        self.guidance = build_guidance(recipe, module.guide, corpus.manifest.sequence_length)
        self.zero_stage = zero_stage(deepspeed_config)
        logger.info(
            "%s: %s of %d parameters, %d rows of %d tokens per step, %d process(es), %s, %s, %s",
            run.path,
            module.model.config.model_type,
            module.model.num_parameters(),
            recipe.train.global_batch_size,
            corpus.manifest.sequence_length,
            cluster.world_size,
            cluster.device.type,
            recipe.train.precision,
            recipe.train.deepspeed,
        )
        torch.manual_seed(int(make_keys(recipe.seed, cluster.rank)[0] >> 1))  # dropout
        self.engine = start_engine(module, recipe, deepspeed_config)
        geometry = BatchGeometry(
            global_batch_size=recipe.train.global_batch_size,
            micro_batch_size=recipe.train.micro_batch_size,
            world_size=cluster.world_size,
            rank=cluster.rank,
        )
        self.train_batcher = corpus.batcher(recipe, "train")
        self.valid_batcher = corpus.batcher(recipe, "valid")
        self.sentence = pick_sentence(self.valid_batcher.split, corpus.vocabulary.sep_id)
        self.step_batches = StepBatches(self.train_batcher, geometry, recipe.seed)
        self.window = WindowSums(module.guide.allocation, cluster.device)
        self.stepper = StepRunner(recipe, cluster, self.engine, self.guidance, self.window)
        self.tokens = 0
        self.window_seconds = self.loader_seconds = self.guidance_seconds = 0.0
        if start.checkpoint is not None:
            self._restore(load_checkpoint(cluster, self.engine, start.checkpoint))
        self.metrics: MetricsLog | None = None
        self.progress: Progress | None = None
        if cluster.is_main:
            tensorboard = run.tensorboard if recipe.logging.tensorboard else None
            self.metrics = MetricsLog(run.metrics_file, tensorboard, self.step)
            self.progress = Progress(recipe.train.num_steps, self.step)

    def run_steps(self, stop: StopRequest, stop_at: int | None) -> bool:
        """Train to the end (True) or until a stop is agreed on (False); a checkpoint is on disk then."""
        recipe = self.recipe
        on_cuda = self.cluster.device.type == "cuda"
        num_steps = recipe.train.num_steps
        batches = load_steps(self.step_batches, self.step, num_steps, recipe.data.num_workers, on_cuda)
        self.engine.train()
        while self.step < num_steps:
            if self.step in snapshot_steps(num_steps):
                self._keep_snapshot()
            stopping = self._train_step(batches, stop) or self.step == stop_at
            last = self.step == num_steps
            if self.step % recipe.logging.every_steps == 0 or last:
                self._log()
            if self.step % recipe.evaluation.every_steps == 0 or last:
                self._evaluate()
            if self.step % recipe.checkpoint.every_steps == 0 or last or stopping:
                self._save()
            if stopping and not last:
                reason = stop.signal_name or "requested"
                self._event("stop", step=self.step, reason=reason)
                logger.info(
                    "stopped at step %d of %d (%s), checkpoint saved: start the same command again to go on",
                    self.step,
                    num_steps,
                    reason,
                )
                return False
        self._event("done", step=self.step)
        logger.info("done; now: python -m pipeline evaluate | export | report %s", self.run.path)
        return True

    def close(self) -> None:
        """Close the logs."""
        if self.metrics is not None and self.progress is not None:
            self.progress.close()
            self.metrics.close()

    def _train_step(self, batches: Iterator[list[MicroBatch]], stop: StopRequest) -> bool:
        """Take a step; whether some process was asked to stop."""
        started = time.perf_counter()
        micro_batches = next(batches)
        self.loader_seconds += time.perf_counter() - started
        totals = self.stepper.run(self.step, micro_batches, [stop.requested])
        mass = self.guidance.judge(self.step, self.cluster)
        if mass is not None:
            self._event("patterns formed", step=self.step + 1, mean_mass=round(mass, 4))
            logger.info("step %d: patterns formed, attention on target %.2f", self.step + 1, mass)
        self.step += 1
        self.window_seconds += time.perf_counter() - started
        if self.progress is not None:
            self.progress.step_done()
        return totals.flags[0] > 0

    def _log(self) -> None:
        started = time.perf_counter()
        line = self.window.take(self.cluster)
        self.guidance_seconds += CLOCK.take()
        guided = self.guidance.at(self.step - 1)
        seconds = self.window_seconds + time.perf_counter() - started
        steps, tokens = line.pop("steps"), line["tokens"]
        self.tokens += tokens
        norm = self.engine.get_global_grad_norm()
        line |= {
            "step": self.step,
            "epoch": self.step * self.recipe.train.global_batch_size / self.train_batcher.split.num_rows,
            "tokens": self.tokens,
            "guidance_weight": guided.weight,
            "guidance_bias": guided.bias,
            "guided_layers": len(guided.layers),
            "learning_rate": learning_rate_at(self.recipe, self.step - 1),
            "gradient_norm": None if norm is None else float(norm),
            "tokens_per_second": tokens / seconds,
            "step_seconds": seconds / steps,
            "guidance_share": self.guidance_seconds / seconds,
            "loader_share": self.loader_seconds / seconds,
        }
        self.window_seconds = self.loader_seconds = self.guidance_seconds = 0.0
        if self.metrics is not None and self.progress is not None:
            self.metrics.write("train", line)
            self.progress.show(line)

    def _evaluate(self) -> None:
        self.guidance_seconds += CLOCK.take()  # the evaluation's own does not count
        line = evaluate_held_out(
            self.engine,
            self.guidance.guide,
            self.valid_batcher,
            self.recipe.evaluation.max_rows,
            self.recipe.train.micro_batch_size,
            self.cluster,
        )
        if self.metrics is not None:
            self.metrics.write("valid", {"step": self.step, **line})
            logger.info(
                "step %d/%d  held-out loss %.4f", self.step, self.recipe.train.num_steps, line["loss"]
            )

    def _keep_snapshot(self) -> None:
        """Keep what the heads look at, for the report."""
        module = self.engine.module
        probs = record_attention(self.engine, module.model, self.guidance.guide, self.sentence)
        self.cluster.on_main(lambda: write_snapshot(self.run.attention, Snapshot(self.step, probs)))

    def _save(self) -> None:
        started = time.perf_counter()
        self.guidance_seconds += CLOCK.take()
        state = {
            "random": random_state(),
            "window": self.window.state(),
            "formed_step": self.guidance.formation.formed_step,
            "tokens": self.tokens,
            "window_seconds": self.window_seconds,
            "loader_seconds": self.loader_seconds,
            "guidance_seconds": self.guidance_seconds,
        }
        save_checkpoint(self.cluster, self.engine, self.run.checkpoints, self.step, self.zero_stage, state)
        self._event("checkpoint", step=self.step, seconds=round(time.perf_counter() - started, 3))
        if self.cluster.is_main:
            settings = self.recipe.checkpoint
            steps = [step_of(path) for path in list_checkpoints(self.run.checkpoints)]
            for step in to_delete(steps, settings.keep_last, settings.keep_every_steps):
                delete_checkpoint(self.run.checkpoints, step)

    def _restore(self, state: dict) -> None:
        restore_random_state(state["random"])
        same_heads = self.window.restore(state["window"])
        # Heads that are newly guided have yet to form.
        self.guidance.formation.formed_step = state["formed_step"] if same_heads else None
        self.tokens = state["tokens"]
        self.window_seconds, self.loader_seconds = state["window_seconds"], state["loader_seconds"]
        self.guidance_seconds = state["guidance_seconds"]

    def _event(self, kind: str, **details: object) -> None:
        if self.cluster.is_main:
            self.run.add_event(kind, **details)
