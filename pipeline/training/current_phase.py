"""Keeps the engine in the phase that the run is in, and tells when a phase begins."""

import logging
from collections.abc import Callable
from typing import Any

from pipeline.data.batches import PhasedBatches
from pipeline.data.phases import phase_at
from pipeline.engine import set_batch

logger = logging.getLogger(__name__)


class CurrentPhase:
    """The phase of the step that comes next. Every process asks for the same steps in the same order."""

    def __init__(self, batches: PhasedBatches, engine: Any, add_event: Callable[..., None]) -> None:
        """`add_event` takes a kind and details; see RunDir.add_event."""
        self._batches, self._engine, self._add_event = batches, engine, add_event
        self._index: int | None = None

    def enter(self, step: int) -> None:
        """Before a step, counted from 0: make the engine's steps those of its phase.

        Where a phase begins is told as an event, once for every time that the run comes by. A run of a single
        phase has nothing to tell.
        """
        index = phase_at(self._batches.phases, step)
        if index == self._index:
            return
        self._index = index
        phase, part = self._batches.phases[index], self._batches.parts[index]
        set_batch(self._engine, part.geometry)
        if len(self._batches.phases) == 1:
            return
        length = part.batcher.split.sequence_length
        logger.info(
            "step %d: phase %d, to step %d: %d rows of %d tokens per step, of %s, %d per process and pass",
            *(step, index, phase.end_step, phase.global_batch_size, length, phase.corpus),
            part.geometry.micro_batch_size,
        )
        if step == phase.first_step:
            self._add_event(
                "phase",
                step=step,
                phase=index,
                end_step=phase.end_step,
                corpus=phase.corpus,
                sequence_length=length,
                global_batch_size=phase.global_batch_size,
            )
