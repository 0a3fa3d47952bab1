"""What an objective is, and what may be added to one: the only way in which the trainer knows them.

An objective is a folder with two files that this package looks for:

    settings.py    SETTINGS, the keys of a recipe's `objective` section; imports nothing heavy
    objective.py   OBJECTIVE, an `Objective`: its draws, its module, its metrics, its checks, its baselines

and a line in OBJECTIVES. docs/architecture.md follows a row through all of it.

Shapes: B rows of a micro-batch, T tokens of a row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.data.batches import Batch, RowBatcher
from pipeline.data.corpus import Vocabulary
from pipeline.data.draws import Draw

if TYPE_CHECKING:
    from pipeline.config.load import Problem
    from pipeline.config.schema import Recipe
    from pipeline.processes.cluster import Cluster


class Term(NamedTuple):
    """A part of the loss.

    Attributes:
        sum: over the micro-batch, differentiable, float32, ().
        per: the count that divides it, summed over the global batch; None if it is divided already, which a
            regularizer can do, because it knows the totals.
        weight: factor on the quotient.
    """

    sum: torch.Tensor
    per: str | None
    weight: float = 1.0


class Scored(NamedTuple):
    """What comes of a forward pass.

    Attributes:
        terms: the loss is the sum of weight * sum / count[per].
        rows: what each row lost, and the number of predictions it is a sum over, (2, B), float32, detached:
            names rows that are not finite or stand out.
        sums: numerators of metrics, of any shapes, detached.
    """

    terms: dict[str, Term]
    rows: torch.Tensor
    sums: dict[str, torch.Tensor]


class Pass(NamedTuple):
    """One pass of a network over the rows of a batch, for counting its floating-point operations.

    Attributes:
        network: its name.
        predictions: positions at which its head runs.
        backward: whether gradients are computed.
    """

    network: str
    predictions: float
    backward: bool = True


class Metric(NamedTuple):
    """A field of the lines of metrics.jsonl: the quotient of two sums over a window of steps.

    Attributes:
        name: of the field.
        of: the numerator, one of `Scored.sums`.
        per: the denominator, one of the batch's counts or another of the sums.
        unit: for people, such as 'nats per masked token'.
        transform: what the quotient goes through.
        only_held_out: it stands in the lines of evaluations only.
    """

    name: str
    of: str
    per: str
    unit: str
    transform: Callable[[float], float] = float
    only_held_out: bool = False


class ObjectiveModule(Protocol):
    """An nn.Module with the networks that are trained. All its parameters are optimized."""

    @property
    def networks(self) -> dict[str, PreTrainedModel]:
        """By name."""
        ...

    def __call__(self, batch: Batch, step: int | None) -> Scored:
        """Score a micro-batch on the device; `step` counts from 0, None in an evaluation."""
        ...

    def passes(self, batch: Batch) -> Sequence[Pass]:
        """What `__call__` runs, for a batch in host memory."""
        ...

    def exports(self) -> dict[str, tuple[str, type]]:
        """Name -> network, and the transformers class that opens it. The first is what is evaluated."""
        ...


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a recipe's model and corpus come to, whatever the objective.

    Attributes:
        vocabulary: of the corpus's tokenizer.
        positions: longest rows of the run, in tokens.
        config: of the recipe's `model`; None while it has problems of its own.
        with_weights: a module that is built gets the weights of `model.checkpoint`; not one without memory.
    """

    vocabulary: Vocabulary
    positions: int
    config: PretrainedConfig | None = None
    with_weights: bool = True


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is learned.

    Attributes:
        metrics: the first is called `loss`: progress, spikes and studies look at it.
        draw: what the loader's workers add to rows.
        build: the module, in float32 in host memory; its weights are a function of the recipe's seed.
        networks: names of its networks, the first export's first.
        check: problems of the `objective` section, beyond types and bounds.
        baseline: metric -> what a model gets on the held-out rows that knows nothing of context; from what
            reads the training and the held-out rows, the vocabulary, and how many of the held-out and of the
            training rows to use (None for all).
    """

    metrics: tuple[Metric, ...]
    draw: Callable[[Any, Vocabulary], Draw]
    build: Callable[["Recipe", Facts], ObjectiveModule]
    networks: tuple[str, ...]
    check: Callable[["Recipe", Facts], Iterator["Problem"]] = lambda recipe, facts: iter(())
    baseline: Callable[[RowBatcher, RowBatcher, Vocabulary, int | None, int | None], dict[str, float]] = (
        lambda *_: {}
    )


class Score(Protocol):
    """An objective, or an objective with regularizers around it."""

    def __call__(self, batch: Batch, step: int | None) -> Scored:
        """Score a micro-batch on the device."""
        ...


class Stateful(Protocol):
    """Something that a checkpoint must remember.

    Tensors of the state are the processes' shares of a sum: a run that goes on with another number of
    processes adds them up. All else is the same on all processes, numbers and lists for example.
    """

    name: str

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        ...


class Regularizer(Stateful, Protocol):
    """Something that adds to an objective's loss, such as guidance."""

    def prepare(self, batch: Batch, step: int | None) -> None:
        """Add columns and counts to a batch in host memory, before counts are summed over all processes."""
        ...

    def around(self, score: Score, batch: Batch, step: int | None, totals: Mapping[str, float]) -> Scored:
        """Score a batch on the device and add terms and sums; `totals` are the global batch's counts."""
        ...

    def rest(self) -> None:
        """Do nothing in forward passes until the next `around`."""
        ...

    def after_step(self, step: int, cluster: "Cluster") -> dict[str, Any] | None:
        """After a step on every process: an event of the run, with its `kind`, or None."""
        ...

    def line(self, step: int | None, totals: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Fields of metrics.jsonl, from a window's sums; `step` is the last one's, None in an evaluation."""
        ...
