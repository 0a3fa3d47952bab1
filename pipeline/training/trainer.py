"""The loop over optimizer steps and what happens between them: logs, evaluation, checkpoints, stops."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.checkpoints.loading import Source, load_checkpoint
from pipeline.config.schema import Recipe
from pipeline.data.batches import Batch, PhasedBatches, load_steps
from pipeline.engine import pass_over_step
from pipeline.evaluation.attention_snapshot import snapshot_steps
from pipeline.objectives.protocol import Regularizer, Stateful
from pipeline.processes.cluster import Cluster
from pipeline.processes.deadline import Deadline
from pipeline.processes.stop import StopRequest
from pipeline.processes.watch import Watch
from pipeline.runs.run_dir import RunDir
from pipeline.runs.start import find_source
from pipeline.training.checkpointing import Checkpointing
from pipeline.training.current_phase import CurrentPhase
from pipeline.training.garbage import GarbageCollection
from pipeline.training.plateau import PlateauWatch
from pipeline.training.profiling import StepProfiler
from pipeline.training.recovery import Recovery
from pipeline.training.state import collect_state, restore_parts
from pipeline.training.step import StepRunner
from pipeline.training.training_log import TrainingLog

logger = logging.getLogger(__name__)


class Surroundings(NamedTuple):
    """Where a run takes place."""

    recipe: Recipe
    run: RunDir
    cluster: Cluster
    watch: Watch


@dataclass(kw_only=True)
class Trainer:
    """A run while it trains. Every process has one and calls the same methods; assembly.py puts it together.

    Attributes:
        around: where.
        stepper: takes the steps.
        batches: what they train.
        phase: keeps the engine in the run's phase.
        recovery: what is done about steps that go wrong.
        log: what the run writes.
        checkpoints: what it saves.
        evaluate: gives the fields of an evaluation's line.
        keep_snapshot: keeps what heads attend to at a step.
        regularizers: what is added to the objective.
        parts: what has a state.
        plateau: looks at evaluations, on the main process.
        profiler: of some steps.
        step: steps taken.
        deadline: when the machine is taken away.
        longest_step_seconds: so far.
    """

    around: Surroundings
    stepper: StepRunner
    batches: PhasedBatches
    phase: CurrentPhase
    recovery: Recovery
    log: TrainingLog
    checkpoints: Checkpointing
    evaluate: Callable[[], dict[str, Any]]
    keep_snapshot: Callable[[int], None]
    regularizers: list[Regularizer]
    parts: list[Stateful]
    plateau: PlateauWatch | None = None
    profiler: StepProfiler | None = None
    step: int = 0
    deadline: Deadline = field(default_factory=Deadline.from_environment)
    longest_step_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Have the surroundings at hand."""
        self.recipe, self.run, self.cluster, self.watch = self.around

    def run_steps(self, stop: StopRequest, stop_at: int | None) -> bool:
        """Train to the end (True) or until a stop is agreed on (False); a checkpoint is on disk then."""
        with GarbageCollection() as garbage:
            return self._run_steps(stop, stop_at, garbage)

    def _run_steps(self, stop: StopRequest, stop_at: int | None, garbage: GarbageCollection) -> bool:
        recipe = self.recipe
        num_steps = recipe.train.num_steps
        batches = self._load_batches()
        save_due = False
        self.stepper.engine.train()
        while self.step < num_steps:
            if self.step in snapshot_steps(num_steps):
                self.keep_snapshot(self.step)
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
        self.run_event("done", step=self.step)
        logger.info("done; now: python -m pipeline evaluate | export | report %s", self.run.path)
        return True

    def _tell_stop(self, stop: StopRequest) -> None:
        reasons = [reason for reason in self.cluster.gather(stop.reason) if reason is not None]
        reason = reasons[0] if reasons else "requested"
        self.run_event("stop", step=self.step, reason=reason)
        logger.info(
            "stopped at step %d of %d (%s), checkpoint saved: start the same command again to go on",
            self.step,
            self.recipe.train.num_steps,
            reason,
        )

    def _load_batches(self) -> Iterator[list[Batch]]:
        steps = self.recovery.steps_to_train(self.step, self.recipe.train.num_steps)
        on_cuda = self.cluster.device.type == "cuda"
        return load_steps(self.batches, steps, self.recipe.data.num_workers, on_cuda)

    def close(self) -> None:
        """End what goes on in the background, and close the logs."""
        self.checkpoints.saver.abandon()
        if self.profiler is not None:
            self.profiler.finish()
        self.log.close()

    def _train_step(self, batches: Iterator[list[Batch]], stop: StopRequest) -> list[int]:
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
            events = [one.after_step(self.step, self.cluster) for one in self.regularizers]
        for event in events:
            if event is not None:
                self.run_event(**event)
        self.step += 1
        self.log.step_done()
        return outcome.flags

    def _pass_over(self) -> list[int]:
        """Count a step as taken that made trouble before; nobody is asked anything."""
        pass_over_step(self.stepper.engine)
        self.stepper.window.add({"skipped_steps": int(self.cluster.is_main)})
        self.step += 1
        self.log.step_done()
        return [0, 0]

    def _roll_back(self) -> None:
        """Go back to the newest usable checkpoint, from where the bad steps are passed over."""
        self.watch.at(f"step {self.step}: going back")
        self.checkpoints.finish()
        source = self.cluster.on_main(lambda: self.recovery.go_back(self.step, self._newest_source()))
        self.recovery.went_back()
        self.restore(source)
        self.step = source.step
        self.log.open(self.step)

    def _newest_source(self) -> Source | None:
        return find_source(self.run, self.cluster.world_size, self.checkpoints.saver.zero_stage)

    def _log(self) -> None:
        with self.log.timings.counted():
            self.recovery.look_for_spikes(self.stepper.row_losses.take(self.cluster))
        norm = self.stepper.engine.get_global_grad_norm()
        self.log.write_training(self.step, None if norm is None else float(norm))

    def _evaluate(self) -> None:
        self.watch.at(f"step {self.step}: evaluating")
        self.log.timings.read_clocks()  # the evaluation's own does not count
        line = self.evaluate()
        self.log.write_valid(self.step, line)
        if self.plateau is not None and (warning := self.plateau.look(self.step, line["loss"])):
            logger.warning(warning)

    def _save(self, *, wait: bool) -> None:
        self.watch.at(f"step {self.step}: saving")
        self.checkpoints.save(self.step, collect_state(self.parts), wait=wait)

    def restore(self, source: Source) -> None:
        """Load a checkpoint: weights, optimizer and the state of all parts."""
        load_checkpoint(self.stepper.engine, source)
        restore_parts(self.parts, source, self.cluster, self.recipe.seed)

    def run_event(self, kind: str, **details: object) -> None:
        """Add an event to the run, once."""
        if self.cluster.is_main:
            self.run.add_event(kind, **details)
