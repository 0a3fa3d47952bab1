"""What a run does about steps that go wrong: tell, count, go back, pass over, or give up."""

import logging

from pipeline.checkpoints.loading import Source
from pipeline.config.schema import Recipe
from pipeline.data.phases import phase_at
from pipeline.errors import DivergedError
from pipeline.processes.cluster import Cluster
from pipeline.runs.run_dir import RunDir
from pipeline.training.faults import BadSeries, Fault, name_rows
from pipeline.training.row_losses import StepLosses
from pipeline.training.skipped_steps import Rollback, SkippedSteps
from pipeline.training.spikes import SpikeDetector

logger = logging.getLogger(__name__)
_ROWS_NAMED = 10


class Recovery:
    """The memory of what went wrong: the same on every process, which all call the same methods in order."""

    def __init__(self, recipe: Recipe, run: RunDir, cluster: Cluster) -> None:
        """Read which steps the run passes over."""
        self.recipe, self.run, self.cluster = recipe, run, cluster
        self.series = BadSeries(recipe.recovery.max_bad_steps)
        self.spikes = SpikeDetector(recipe.recovery.spike_sigmas)
        self.skipped = cluster.on_main(lambda: SkippedSteps.read(run.skipped_steps_file))

    def passes_over(self, step: int) -> bool:
        """Whether a step, counted from 0, is not trained: no forward pass, no update, on no process."""
        return step + 1 in self.skipped.steps

    def steps_to_train(self, first_step: int, end_step: int) -> list[int] | range:
        """The steps in [first_step, end_step), counted from 0, that are not passed over."""
        steps, skipped = range(first_step, end_step), self.skipped.steps
        return [step for step in steps if step + 1 not in skipped] if skipped else steps

    @property
    def is_settled(self) -> bool:
        """Whether a checkpoint may be taken, which is not in the middle of a series of bad steps.

        The weights are those of before the series, but perhaps they are what makes it: a run that has to go
        back would go back to them. One good step proves them, and comes, if at all, within the series' limit;
        otherwise the run goes back to a checkpoint that is on disk already.
        """
        return not self.series.is_open

    def note(self, fault: Fault | None) -> None:
        """Take the outcome of a step that was tried."""
        self.series.note(fault)
        if fault is not None and self.cluster.is_main:
            corpus = self._corpus_of(fault.step)
            logger.warning("%s of %s (%d in a row)", fault, corpus, len(self.series.faults))
            self.run.add_event(
                "skipped step", step=fault.step, reason=fault.reason, corpus=corpus, rows=fault.rows
            )

    def look_for_spikes(self, steps: list[StepLosses]) -> None:
        """Take the losses of a window's steps, and tell which stand out."""
        for losses in steps:
            corpus = self._corpus_of(losses.step)
            self.spikes.begin(corpus)
            usual = self.spikes.usual
            if self.spikes.is_spike(losses.mean) and self.cluster.is_main:
                assert usual is not None
                rows, row_losses = losses.highest(_ROWS_NAMED)
                logger.warning(
                    "step %d: loss %.4f, usual is %.4f; the highest are those of rows %s of %s",
                    losses.step,
                    losses.mean,
                    usual,
                    name_rows(rows),
                    corpus,
                )
                self.run.add_event(
                    "loss spike",
                    step=losses.step,
                    loss=losses.mean,
                    usual=usual,
                    corpus=corpus,
                    rows=rows,
                    row_losses=row_losses,
                )

    def go_back(self, from_step: int, source: Source | None) -> Source:
        """Decide to go back to a checkpoint and to pass over the series. Runs on the main process only.

        Args:
            from_step: steps taken.
            source: the checkpoint; None if there is none.

        Returns:
            The checkpoint.

        Raises:
            DivergedError: there is nothing to go back to, or the run has gone back often enough.
        """
        limit = self.recipe.recovery.max_rollbacks
        if source is None:
            raise self._give_up("there is no checkpoint yet to go back to")
        if len(self.skipped.rollbacks) >= limit:
            raise self._give_up(
                f"the run has been taken back {limit} time(s) already (recovery.max_rollbacks)",
                "to go on all the same, and pass over these steps too: raise recovery.max_rollbacks",
            )
        rollback = Rollback(
            from_step=from_step, to_step=source.step, steps=self.series.steps, rows=self._rows_to_blame()
        )
        self.skipped.after(rollback).write(self.run.skipped_steps_file)
        self.run.add_event(
            "rollback", from_step=from_step, to_step=source.step, skipping=rollback.steps, rows=rollback.rows
        )
        logger.warning(
            "back from step %d to the checkpoint of step %d; the steps %s are passed over",
            from_step,
            source.step,
            ", ".join(map(str, rollback.steps)),
        )
        return source

    def went_back(self) -> None:
        """After that, on all processes."""
        self.series.note(None)
        self.skipped = self.cluster.on_main(lambda: SkippedSteps.read(self.run.skipped_steps_file))

    def _corpus_of(self, step: int) -> str:
        """Where the rows of a step are, which is counted as the logs do, from 1."""
        phases = self.recipe.phases
        return phases[phase_at(phases, step - 1)].corpus

    def _rows_to_blame(self) -> dict[str, list[int]]:
        """Those of all steps of the series, by corpus, ascending."""
        rows: dict[str, set[int]] = {}
        for fault in self.series.faults:
            rows.setdefault(self._corpus_of(fault.step), set()).update(fault.rows)
        return {corpus: sorted(found) for corpus, found in rows.items()}

    def _give_up(self, why: str, *advice: str) -> DivergedError:
        steps, rows = self.series.steps, self._rows_to_blame()
        self.run.add_event("diverged", steps=steps, rows=rows)
        usual, listed = self.spikes.usual, ", ".join(map(str, steps))
        before = "no loss was logged before" if usual is None else f"the loss was {usual:.4f} before"
        advice = (
            *(
                f"the rows to blame: python -m data_prep inspect {corpus} "
                f"--rows {' '.join(map(str, found[:_ROWS_NAMED]))}"
                for corpus, found in rows.items()
            ),
            "if they are ordinary text, it is the settings: try a lower optimizer.learning_rate, a longer "
            "schedule.warmup, a smaller optimizer.gradient_clipping or train.precision: fp32, in another "
            "run_dir or, with --accept-changes, in this one",
            *advice,
        )
        return DivergedError(
            f"{self.run.path} has diverged: the loss or gradient of steps {listed} was not finite, "
            f"and {why}; {before}. No checkpoint was touched.\n" + "\n".join(f"  - {line}" for line in advice)
        )
