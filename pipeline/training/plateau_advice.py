"""What a run is told whose guidance has not brought it off the unigram plateau: cause, figures and advice.

The advice names only what the recipe can still change, with the value it has now.
"""

from dataclasses import dataclass

from pipeline.config.schema import GuidanceSection
from pipeline.guidance.allocation import pattern_names
from pipeline.guidance.schedule import DEFAULT_WEIGHTS

_NEIGHBOURS = ("next", "previous")  # the patterns that help in docs/studies.md


@dataclass(frozen=True)
class Progress:
    """Where a run is: losses in nats per masked token; `formed_step` None if no formation was seen."""

    step: int
    loss: float
    unigram_loss: float
    formed_step: int | None


def explain(progress: Progress, guidance: GuidanceSection, num_guided_layers: int) -> str:
    """The warning."""
    return (
        f"step {progress.step}: {_cause(progress, guidance)}, but the held-out loss, {progress.loss:.3f}, is "
        f"still that of a model that knows only how frequent tokens are ({progress.unigram_loss:.3f}); "
        + _advice(progress, guidance, num_guided_layers)
    )


def _cause(progress: Progress, guidance: GuidanceSection) -> str:
    if progress.formed_step is not None:
        return f"the guided patterns formed at step {progress.formed_step}"
    if guidance.acts_by == "loss" and guidance.dense == "formed":
        return "the guided patterns have not formed in the time of full weight"
    return f"guidance has acted for {progress.step} steps"  # nothing measured whether they form


def _advice(progress: Progress, guidance: GuidanceSection, num_guided_layers: int) -> str:
    """What can be tried, joined by "or"; comparing with an unguided run always can."""
    choices = []
    if progress.formed_step is not None or guidance.acts_by == "bias":
        choices.append(_lower_weight(guidance))
    if others := [name for name in pattern_names(guidance.heads) if name not in _NEIGHBOURS]:
        choices.append(f"guide next and previous alone, without {', '.join(others)}")
    if num_guided_layers > 1:
        choices.append(f"guide fewer than {num_guided_layers} layers (guidance.layers)")
    return ", or ".join([*choices, "compare with a run of guidance.weight=0"])


def _lower_weight(guidance: GuidanceSection) -> str:
    if guidance.acts_by == "bias":
        return f"lower guidance.bias, now {guidance.bias:g}"
    if guidance.alpha is not None:
        return f"lower guidance.alpha, now {guidance.alpha:g}"
    weight = DEFAULT_WEIGHTS[guidance.row_error] if guidance.weight is None else guidance.weight
    return f"lower guidance.weight, now {weight:g}"
