"""A warning when guided heads form, or fail to, while the model learns no more than how frequent tokens are.

Early in training an encoder predicts what a unigram model would, and guidance is there to bring it off that
plateau. It can also keep it there: a pull that is too strong does (see docs/guidance.md),
and so do heads that are pulled without ever forming. Both look the same from outside: guidance acts, and the
held-out loss stays where it was.
"""

from pipeline.build import Corpus
from pipeline.config.schema import Recipe
from pipeline.evaluation.unigram import SAMPLE_ROWS, held_out_unigram_loss
from pipeline.guidance.run import RunGuidance
from pipeline.runs.run_dir import RunDir

EVENT = "guidance holds back"
_OFF_PLATEAU = 0.97  # of the unigram loss: a model below it has learned something of context


class PlateauWatch:
    """Looks at the evaluations of a run, on its main process, and tells what it sees once."""

    def __init__(self, recipe: Recipe, corpus: Corpus, run: RunDir, guidance: RunGuidance) -> None:
        """Of a run whose events are in `run`, where an earlier start of it may have told."""
        self._recipe, self._corpus, self._run, self._guidance = recipe, corpus, run, guidance
        self._unigram_loss: float | None = None  # not needed by most runs, and not for the first steps

    def look(self, step: int, loss: float) -> str | None:
        """After an evaluation with this held-out loss: what to tell the user, if anything."""
        formed_step = self._guidance.formation.formed_step
        schedule = self._guidance.schedule
        guided = schedule.at(step - 1, formed_step)  # the step before this evaluation
        if not (guided.layers or guided.bias) or step < self._due_step(formed_step):
            return None
        if self._unigram_loss is None:
            rows = self._recipe.evaluation.max_rows
            self._unigram_loss = held_out_unigram_loss(self._recipe, self._corpus, rows, SAMPLE_ROWS)
        if loss < _OFF_PLATEAU * self._unigram_loss or self._was_told():
            return None
        self._run.add_event(
            EVENT, step=step, loss=loss, unigram_loss=self._unigram_loss, formed_step=formed_step
        )
        return explain(step, loss, self._unigram_loss, formed_step)

    def _due_step(self, formed_step: int | None) -> int:
        schedule, every_steps = self._guidance.schedule, self._recipe.evaluation.every_steps
        last_evaluation = min(schedule.end_step, self._recipe.train.num_steps) // every_steps * every_steps
        return due_step(formed_step, schedule.plateau_steps, last_evaluation)

    def _was_told(self) -> bool:
        return any(event["event"] == EVENT for event in self._run.read_events())


def due_step(formed_step: int | None, plateau_steps: int, last_evaluation: int) -> int:
    """The step from which guidance has had the time to show that it helps.

    That is four times what the patterns took to form: a deep model needs a while to make use of them. If they
    are not known to have formed, it is when the weight begins to fall. In either case it is no later than the
    last evaluation with guidance.
    """
    return min(plateau_steps if formed_step is None else 4 * formed_step, last_evaluation)


def explain(step: int, loss: float, unigram_loss: float, formed_step: int | None) -> str:
    """The warning."""
    if formed_step is None:
        cause = "the guided patterns have not formed in the time of full weight"
        advice = "guide fewer patterns (next and previous alone) or layers, or compare with guidance.weight=0"
    else:
        cause = f"the guided patterns formed at step {formed_step}"
        advice = "lower guidance.weight, or guide fewer patterns (next and previous alone) or layers"
    return (
        f"step {step}: {cause}, but the held-out loss, {loss:.3f}, is still that of a model that knows only "
        f"how frequent tokens are ({unigram_loss:.3f}); {advice}"
    )
