"""The loop over optimizer steps and what happens between them: logs, evaluation, checkpoints, stops."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from pipeline.accounting.metrics import WindowSums
from pipeline.build import Corpus, build_batches, build_guidance, build_pretraining_module
from pipeline.checkpoints.loading import Source, load_checkpoint
from pipeline.checkpoints.random_state import random_state
from pipeline.checkpoints.saving import CheckpointSaver
from pipeline.config.deepspeed_json import zero_stage
from pipeline.config.schema import Recipe
from pipeline.data.batches import MicroBatch, load_steps
from pipeline.encoder.compilation import compile_blocks_if_possible, wants_compilation
from pipeline.engine import pass_over_step, start_engine
from pipeline.evaluation.attention_snapshot import (
    Snapshot,
    pick_sentence,
    record_attention,
    snapshot_steps,
    write_snapshot,
)
from pipeline.evaluation.held_out import evaluate_held_out
from pipeline.processes.cluster import Cluster
from pipeline.processes.deadline import Deadline
from pipeline.processes.stop import StopRequest
from pipeline.processes.watch import Watch
from pipeline.runs.run_dir import RunDir
from pipeline.runs.start import Start, find_source
from pipeline.training.checkpointing import Checkpointing
from pipeline.training.current_phase import CurrentPhase
from pipeline.training.garbage import GarbageCollection
from pipeline.training.plateau import PlateauWatch
from pipeline.training.profiling import StepProfiler
from pipeline.training.recovery import Recovery
from pipeline.training.row_losses import RowLosses
from pipeline.training.state import restore_state, seed_process
from pipeline.training.step import StepRunner
from pipeline.training.training_log import TrainingLog

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
        profile_steps: int | None,
    ) -> None:
        """Build the run's objects and, if there is one, load its checkpoint; `profile_steps` are profiled."""
        self.recipe, self.run, self.cluster, self.watch = recipe, run, cluster, watch
        self.step = start.step
        corpus = Corpus.open(recipe.corpus)
        module = build_pretraining_module(recipe, corpus)
        self.batches = build_batches(recipe, corpus.vocabulary, cluster.world_size, cluster.rank)
        lengths = [
            (phase.end_step, part.batcher.split.sequence_length)
            for phase, part in zip(self.batches.phases, self.batches.parts)
        ]
        self.guidance = build_guidance(recipe, module.guide, lengths[-1][1], lengths[:-1])
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
            compile_blocks_if_possible(
                module.model, cluster, recomputes=recipe.train.activation_checkpointing
            )
        seed_process(recipe.seed, cluster.rank, 0)
        self.engine = start_engine(module, recipe, deepspeed_config)
        self.phase = CurrentPhase(self.batches, self.engine, self._event)
        self.valid_batcher = corpus.batcher(recipe, "valid")
        self.sentence = pick_sentence(self.valid_batcher.split, corpus.vocabulary.sep_id)
        self.window = WindowSums(module.guide.allocation, cluster.device)
        self.row_losses = RowLosses(self.batches, cluster.device)
        self.stepper = StepRunner(recipe, cluster, self.engine, self.guidance, self.window, self.row_losses)
        self.plateau = PlateauWatch(recipe, corpus, run, self.guidance) if cluster.is_main else None
        self.recovery = Recovery(recipe, run, cluster)
        self.log = TrainingLog(recipe, run, cluster, self.window, self.batches)
        saver = CheckpointSaver(cluster, self.engine, run.checkpoints, stage)
        self.checkpoints = Checkpointing(recipe.checkpoint, run, cluster, saver)
        self.deadline = Deadline.from_environment()
        self.longest_step_seconds = 0.0
        if start.source is not None:
            self._restore(start.source)
        self.log.open(self.step)
        self.profiler = None if profile_steps is None else StepProfiler(profile_steps, run, cluster)

    def run_steps(self, stop: StopRequest, stop_at: int | None) -> bool:
        """Train to the end (True) or until a stop is agreed on (False); a checkpoint is on disk then."""
        with GarbageCollection() as garbage:
            return self._run_steps(stop, stop_at, garbage)

    def _run_steps(self, stop: StopRequest, stop_at: int | None, garbage: GarbageCollection) -> bool:
        recipe = self.recipe
        num_steps = recipe.train.num_steps
        batches = self._load_batches()
        save_due = False
        self.engine.train()
        while self.step < num_steps:
            if self.step in snapshot_steps(num_steps):
                self._keep_snapshot()
            self.phase.enter(self.step)
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
                garbage.collect_all()
            if save_due and settled:
                self._save(wait=last or stopping)
                save_due = False
                garbage.collect_all()
            garbage.collect_young(self.step)
            self.longest_step_seconds = max(self.longest_step_seconds, time.monotonic() - began)
            if self.profiler is not None:
                self.watch.at(f"step {self.step}: profiled")
                self.profiler.step_done(self.step)
            if stopping and not last:
                self._tell_stop(stop)
                return False
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

    def _load_batches(self) -> Iterator[list[MicroBatch]]:
        steps = self.recovery.steps_to_train(self.step, self.recipe.train.num_steps)
        on_cuda = self.cluster.device.type == "cuda"
        return load_steps(self.batches, steps, self.recipe.data.num_workers, on_cuda)

    def close(self) -> None:
        """End what goes on in the background, and close the logs."""
        self.checkpoints.saver.abandon()
        if self.profiler is not None:
            self.profiler.finish()
        self.log.close()

    def _train_step(self, batches: Iterator[list[MicroBatch]], stop: StopRequest) -> list[int]:
        """Take a step; how many processes were asked to stop, and have written their part of a checkpoint."""
        with self.log.timings.step():
            self.watch.at(f"step {self.step}: reading rows")
            with self.log.timings.loading():
                micro_batches = next(batches)
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
        self.log.step_done()
        return outcome.flags

    def _pass_over(self) -> list[int]:
        """Count a step as taken that made trouble before; nobody is asked anything."""
        pass_over_step(self.engine)
        self.window.add(skipped_steps=int(self.cluster.is_main))
        self.step += 1
        self.log.step_done()
        return [0, 0]

    def _roll_back(self) -> None:
        """Go back to the newest usable checkpoint, from where the bad steps are passed over."""
        self.watch.at(f"step {self.step}: going back")
        self.checkpoints.finish()
        source = self.cluster.on_main(lambda: self.recovery.go_back(self.step, self._newest_source()))
        self.recovery.went_back()
        self._restore(source)
        self.step = source.step
        self.log.open(self.step)

    def _newest_source(self) -> Source | None:
        return find_source(self.run, self.cluster.world_size, self.checkpoints.saver.zero_stage)

    def _log(self) -> None:
        with self.log.timings.counted():
            self.recovery.look_for_spikes(self.row_losses.take(self.cluster))
        norm = self.engine.get_global_grad_norm()
        self.log.write_training(
            self.step, self.guidance.at(self.step - 1), None if norm is None else float(norm)
        )

    def _evaluate(self) -> None:
        self.watch.at(f"step {self.step}: evaluating")
        self.log.timings.read_clocks()  # the evaluation's own does not count
        line = evaluate_held_out(
            self.engine,
            self.guidance.guide,
            self.valid_batcher,
            self.recipe.evaluation.max_rows,
            self.recipe.micro_batch_size(self.cluster.world_size),
            self.cluster,
        )
        self.log.write_valid(self.step, line)
        if self.plateau is not None and (warning := self.plateau.look(self.step, line["loss"])):
            logger.warning(warning)

    def _keep_snapshot(self) -> None:
        """Keep what the heads look at, for the report."""
        module = self.engine.module
        probs = record_attention(self.engine, module.model, self.guidance.guide, self.sentence)
        self.cluster.on_main(lambda: write_snapshot(self.run.attention, Snapshot(self.step, probs)))

    def _save(self, *, wait: bool) -> None:
        self.watch.at(f"step {self.step}: saving")
        self.checkpoints.save(self.step, self._state(), wait=wait)

    def _state(self) -> dict[str, Any]:
        """What this process must remember over a restart."""
        return {
            "random": random_state(),
            "window": self.window.state(),
            "row_losses": self.row_losses.state(),
            "spikes": self.recovery.spikes.state(),
            "formed_step": self.guidance.formation.formed_step,
            "log": self.log.state(),
        }

    def _restore(self, source: Source) -> None:
        load_checkpoint(self.engine, source)
        state = restore_state(source, self.cluster, self.recipe.seed)
        same_heads = self.window.restore(state["window"])
        self.row_losses.restore(state["row_losses"])
        self.recovery.spikes.restore(state["spikes"])
        # Heads that are newly guided have yet to form.
        self.guidance.formation.formed_step = state["formed_step"] if same_heads else None
        self.log.restore(state["log"])

    def _event(self, kind: str, **details: object) -> None:
        if self.cluster.is_main:
            self.run.add_event(kind, **details)
