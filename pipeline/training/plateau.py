"""A warning when guided heads form, or fail to, while the model learns no more than how frequent tokens are.

Early in training an encoder predicts what a unigram model would, and guidance is there to bring it off that
plateau. It can also keep it there: a pull that is too strong does (see docs/guidance.md),
and so do heads that are pulled without ever forming. Both look the same from outside: guidance acts, and the
held-out loss stays where it was.
"""

import math

from pipeline.build import Corpus
from pipeline.config.schema import Recipe
from pipeline.evaluation.baseline import SAMPLE_ROWS, held_out_baseline
from pipeline.guidance.run import RunGuidance
from pipeline.runs.run_dir import RunDir
from pipeline.training.plateau_advice import Progress, explain

EVENT = "guidance holds back"
_OFF_PLATEAU = 0.97  # of the unigram loss: a model below it has learned something of context
# No run of docs/studies.md, guided or not, had left the plateau at an evaluation before this step.
EARLIEST_ONSET = 200


class PlateauWatch:
    """Looks at the evaluations of a run, on its main process, and tells what it sees once."""

    def __init__(self, recipe: Recipe, corpus: Corpus, run: RunDir, guidance: RunGuidance) -> None:
        """Of a run whose events are in `run`, where an earlier start of it may have told."""
        self._recipe, self._corpus, self._run, self._guidance = recipe, corpus, run, guidance
        self._unigram_loss: float | None = None  # not needed by most runs, and not for the first steps

    def look(self, step: int, loss: float) -> str | None:
        """After an evaluation with this held-out loss: what to tell the user, if anything."""
        formed_step, schedule = self._guidance.formation.formed_step, self._guidance.schedule
        guided = schedule.at(step - 1, formed_step)  # the step before this evaluation
        due = self._due_step(formed_step)
        if not (guided.layers or guided.bias) or due is None or step < due:
            return None
        if self._unigram_loss is None:
            rows = self._recipe.evaluation.max_rows
            baseline = held_out_baseline(self._recipe, self._corpus, rows, SAMPLE_ROWS)
            # An objective without such a model has no plateau that is known.
            self._unigram_loss = baseline.get("loss", math.inf)
        if math.isinf(self._unigram_loss):
            return None
        if loss < _OFF_PLATEAU * self._unigram_loss or self._was_told():
            return None
        self._run.add_event(
            EVENT, step=step, loss=loss, unigram_loss=self._unigram_loss, formed_step=formed_step
        )
        progress = Progress(step, loss, self._unigram_loss, formed_step)
        return explain(progress, self._recipe.guidance, len(schedule.layers))

    def _due_step(self, formed_step: int | None) -> int | None:
        schedule, every_steps = self._guidance.schedule, self._recipe.evaluation.every_steps
        last_evaluation = min(schedule.end_step, self._recipe.train.num_steps) // every_steps * every_steps
        warmup_steps = self._recipe.steps_of(self._recipe.schedule.warmup)
        return due_step(formed_step, schedule.plateau_steps, last_evaluation, warmup_steps)

    def _was_told(self) -> bool:
        return any(event["event"] == EVENT for event in self._run.read_events())


def due_step(
    formed_step: int | None, plateau_steps: int, last_evaluation: int, warmup_steps: int
) -> int | None:
    """The step from which guidance has had the time to show that it helps; None if it never has.

    That is four times what the patterns took to form: most guided runs of the studies had left the plateau
    by then. If the patterns are not known to have formed, it is when the weight begins to fall. A run in
    which guidance ends earlier is judged at its last evaluation with guidance, if that gives the model as
    long again as the patterns took.

    It is never before the learning-rate warm-up has ended, nor before EARLIEST_ONSET: a model that is still
    on the plateau then tells nothing, because it would be there without guidance as well. So a run whose
    guidance ends before either is not judged at all.
    """
    usual = plateau_steps if formed_step is None else 4 * formed_step
    earliest = max(EARLIEST_ONSET, warmup_steps, 0 if formed_step is None else 2 * formed_step)
    due = max(earliest, min(usual, last_evaluation))
    return due if due <= last_evaluation else None
