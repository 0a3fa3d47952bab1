"""Python's garbage collection, at the same steps on all processes.

Left alone, each process collects whenever it has made enough objects, at a moment of its own, and all others
wait for it at the end of that step. While a run trains the automatic collector is off. What set-up left is
frozen, so that no collection looks through it again; young objects are collected every so many steps, and all
others where training stands still anyway.
"""

import gc
from types import TracebackType

EVERY_STEPS = 50  # often enough for tensors caught in cycles, seldom enough not to be seen


class GarbageCollection:
    """The schedule, as long as it is entered; on the way out the collector is as it was.

    with GarbageCollection() as garbage:
        garbage.collect_young(step)     # after every step
        garbage.collect_all()           # at evaluations and checkpoints
    """

    def __enter__(self) -> "GarbageCollection":
        """Collect once, freeze what is left, and turn the automatic collector off."""
        self._was_enabled = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Undo what was done on the way in."""
        gc.unfreeze()
        if self._was_enabled:
            gc.enable()

    def collect_young(self, step: int) -> None:
        """Collect what was made in the last steps, if it is time: a function of the step alone."""
        if step % EVERY_STEPS == 0:
            gc.collect(1)

    def collect_all(self) -> None:
        """Collect everything that was made while training."""
        gc.collect()
