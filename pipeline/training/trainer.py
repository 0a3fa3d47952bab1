"""The loop over optimizer steps and what happens between them: logs, evaluation, checkpoints, stops."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from pipeline.build import Corpus, build_guidance, build_pretraining_module
from pipeline.checkpoints.loading import Source, load_checkpoint
from pipeline.checkpoints.random_state import random_state
from pipeline.checkpoints.saving import CheckpointSaver
from pipeline.compilation import compile_blocks_if_possible, wants_compilation
from pipeline.config.deepspeed_json import zero_stage
from pipeline.config.schema import Recipe
from pipeline.data.batches import BatchGeometry, MicroBatch, StepBatches, load_steps
from pipeline.engine import pass_over_step, start_engine
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
from pipeline.processes.deadline import Deadline
from pipeline.processes.stop import StopRequest
from pipeline.processes.watch import Watch
from pipeline.runs.run_dir import RunDir
from pipeline.runs.start import Start, find_source
from pipeline.training.checkpointing import Checkpointing
from pipeline.training.learning_rate import learning_rate_at
from pipeline.training.progress import Progress
from pipeline.training.recovery import Recovery
from pipeline.training.row_losses import RowLosses
from pipeline.training.state import restore_state, seed_process
from pipeline.training.step import StepRunner

logger = logging.getLogger(__name__)


class Trainer:
    """Everything a run needs while it trains."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunDir,
        cluster: Cluster,
        watch: Watch,
        deepspeed_config: dict,
        start: Start,
    ) -> None:
        """Build the run's objects and, if there is one, load its checkpoint."""
        self.recipe, self.run, self.cluster, self.watch = recipe, run, cluster, watch
        self.step = start.step
        corpus = Corpus.open(recipe.corpus)
        module = build_pretraining_module(recipe, corpus)
        self.guidance = build_guidance(recipe, module.guide, corpus.manifest.sequence_length)
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
        stage = zero_stage(deepspeed_config)
        if wants_compilation(recipe, stage, on_cuda=cluster.device.type == "cuda"):
            watch.at("trying to compile")
            compile_blocks_if_possible(module.model, cluster)
        seed_process(recipe.seed, cluster.rank, 0)
        self.engine = start_engine(module, recipe, deepspeed_config)
        geometry = BatchGeometry(
            global_batch_size=recipe.train.global_batch_size,
            micro_batch_size=recipe.micro_batch_size(cluster.world_size),
            world_size=cluster.world_size,
            rank=cluster.rank,
        )
        self.train_batcher = corpus.batcher(recipe, "train")
        self.valid_batcher = corpus.batcher(recipe, "valid")
        self.sentence = pick_sentence(self.valid_batcher.split, corpus.vocabulary.sep_id)
        self.step_batches = StepBatches(self.train_batcher, geometry, recipe.seed)
        self.window = WindowSums(module.guide.allocation, cluster.device)
        self.row_losses = RowLosses(self.step_batches, cluster.device)
        self.stepper = StepRunner(recipe, cluster, self.engine, self.guidance, self.window, self.row_losses)
        self.recovery = Recovery(recipe, run, cluster)
        self.tokens = 0
        self.window_seconds = self.loader_seconds = self.guidance_seconds = 0.0
        saver = CheckpointSaver(cluster, self.engine, run.checkpoints, stage)
        self.checkpoints = Checkpointing(recipe.checkpoint, run, cluster, saver)
        self.deadline = Deadline.from_environment()
        self.longest_step_seconds = 0.0
        if start.source is not None:
            self._restore(start.source)
        self.metrics: MetricsLog | None = None
        self.progress: Progress | None = None
        self._open_logs()

    def run_steps(self, stop: StopRequest, stop_at: int | None) -> bool:
        """Train to the end (True) or until a stop is agreed on (False); a checkpoint is on disk then."""
        recipe = self.recipe
        num_steps = recipe.train.num_steps
        batches = self._load_batches()
        save_due = False
        self.engine.train()
        while self.step < num_steps:
            if self.step in snapshot_steps(num_steps):
                self._keep_snapshot()
            began = time.monotonic()
            if self.recovery.passes_over(self.step):
                num_stops, num_written = self._pass_over()
            else:
                num_stops, num_written = self._train_step(batches, stop)
            self.checkpoints.publish_if_written(num_written)
            if self.recovery.series.is_full:
                self._roll_back()
                batches, save_due = self._load_batches(), False
                continue
            last = self.step == num_steps
            # In a series of bad steps a stop waits, too: the weights may be what makes it.
            settled = last or self.recovery.is_settled
            stopping = settled and (num_stops > 0 or (stop_at is not None and self.step >= stop_at))
            save_due = save_due or self.step % recipe.checkpoint.every_steps == 0 or last or stopping
            if self.step % recipe.logging.every_steps == 0 or last:
                self._log()
            if self.step % recipe.evaluation.every_steps == 0 or last:
                self._evaluate()
            if save_due and settled:
                self._save(wait=last or stopping)
                save_due = False
            if stopping and not last:
                self._tell_stop(stop)
                return False
            self.longest_step_seconds = max(self.longest_step_seconds, time.monotonic() - began)
        self._event("done", step=self.step)
        logger.info("done; now: python -m pipeline evaluate | export | report %s", self.run.path)
        return True

    def _tell_stop(self, stop: StopRequest) -> None:
        reasons = [reason for reason in self.cluster.gather(stop.reason) if reason is not None]
        reason = reasons[0] if reasons else "requested"
        self._event("stop", step=self.step, reason=reason)
        logger.info(
            "stopped at step %d of %d (%s), checkpoint saved: start the same command again to go on",
            self.step,
            self.recipe.train.num_steps,
            reason,
        )

    def _open_logs(self) -> None:
        self._close_logs()
        if self.cluster.is_main:
            tensorboard = self.run.tensorboard if self.recipe.logging.tensorboard else None
            self.metrics = MetricsLog(self.run.metrics_file, tensorboard, self.step)
            self.progress = Progress(self.recipe.train.num_steps, self.step)

    def _load_batches(self) -> Iterator[list[MicroBatch]]:
        steps = self.recovery.steps_to_train(self.step, self.recipe.train.num_steps)
        on_cuda = self.cluster.device.type == "cuda"
        return load_steps(self.step_batches, steps, self.recipe.data.num_workers, on_cuda)

    def close(self) -> None:
        """End what goes on in the background, and close the logs."""
        self.checkpoints.saver.abandon()
        self._close_logs()

    def _close_logs(self) -> None:
        if self.metrics is not None and self.progress is not None:
            self.progress.close()
            self.metrics.close()

    def _train_step(self, batches: Iterator[list[MicroBatch]], stop: StopRequest) -> list[int]:
        """Take a step; how many processes were asked to stop, and have written their part of a checkpoint."""
        started = time.perf_counter()
        self.watch.at(f"step {self.step}: reading rows")
        micro_batches = next(batches)
        self.loader_seconds += time.perf_counter() - started
        self.watch.at(f"step {self.step}: training")
        if self.cluster.is_main and self.deadline.is_near(
            self.checkpoints.longest_seconds, self.longest_step_seconds
        ):
            stop.ask("deadline")
        flags = [stop.requested, self.checkpoints.is_written]
        outcome = self.stepper.run(self.step, micro_batches, flags)
        self.recovery.note(outcome.fault)
        mass = self.guidance.judge(self.step, self.cluster)
        if mass is not None:
            self._event("patterns formed", step=self.step + 1, mean_mass=round(mass, 4))
            logger.info("step %d: patterns formed, attention on target %.2f", self.step + 1, mass)
        self.step += 1
        self.window_seconds += time.perf_counter() - started
        if self.progress is not None:
            self.progress.step_done()
        return outcome.flags

    def _pass_over(self) -> list[int]:
        """Count a step as taken that made trouble before; nobody is asked anything."""
        pass_over_step(self.engine)
        self.window.add(skipped_steps=int(self.cluster.is_main))
        self.step += 1
        if self.progress is not None:
            self.progress.step_done()
        return [0, 0]

    def _roll_back(self) -> None:
        """Go back to the newest usable checkpoint, from where the bad steps are passed over."""
        self.watch.at(f"step {self.step}: going back")
        self.checkpoints.finish()
        source = self.cluster.on_main(lambda: self.recovery.go_back(self.step, self._newest_source()))
        self.recovery.went_back()
        self._restore(source)
        self.step = source.step
        self._open_logs()

    def _newest_source(self) -> Source | None:
        return find_source(self.run, self.cluster.world_size, self.checkpoints.saver.zero_stage)

    def _log(self) -> None:
        started = time.perf_counter()
        line = self.window.take(self.cluster)
        self.recovery.look_for_spikes(self.row_losses.take(self.cluster))
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
            "step_seconds": seconds / steps if steps else None,
            "guidance_share": self.guidance_seconds / seconds,
            "loader_share": self.loader_seconds / seconds,
        }
        self.window_seconds = self.loader_seconds = self.guidance_seconds = 0.0
        if self.metrics is not None and self.progress is not None:
            self.metrics.write("train", line)
            self.progress.show(line)

    def _evaluate(self) -> None:
        self.watch.at(f"step {self.step}: evaluating")
        self.guidance_seconds += CLOCK.take()  # the evaluation's own does not count
        line = evaluate_held_out(
            self.engine,
            self.guidance.guide,
            self.valid_batcher,
            self.recipe.evaluation.max_rows,
            self.recipe.micro_batch_size(self.cluster.world_size),
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

    def _save(self, *, wait: bool) -> None:
        self.watch.at(f"step {self.step}: saving")
        self.guidance_seconds += CLOCK.take()
        self.checkpoints.save(self.step, self._state(), wait=wait)

    def _state(self) -> dict[str, Any]:
        """What this process must remember over a restart."""
        return {
            "random": random_state(),
            "window": self.window.state(),
            "row_losses": self.row_losses.state(),
            "spikes": self.recovery.spikes.state(),
            "formed_step": self.guidance.formation.formed_step,
            "tokens": self.tokens,
            "window_seconds": self.window_seconds,
            "loader_seconds": self.loader_seconds,
            "guidance_seconds": self.guidance_seconds,
        }

    def _restore(self, source: Source) -> None:
        load_checkpoint(self.engine, source)
        state = restore_state(source, self.cluster, self.recipe.seed)
        same_heads = self.window.restore(state["window"])
        self.row_losses.restore(state["row_losses"])
        self.recovery.spikes.restore(state["spikes"])
        # Heads that are newly guided have yet to form.
        self.guidance.formation.formed_step = state["formed_step"] if same_heads else None
        self.tokens = state["tokens"]
        self.window_seconds, self.loader_seconds = state["window_seconds"], state["loader_seconds"]
        self.guidance_seconds = state["guidance_seconds"]

    def _event(self, kind: str, **details: object) -> None:
        if self.cluster.is_main:
            self.run.add_event(kind, **details)
