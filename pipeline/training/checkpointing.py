"""When a run saves: in the background while it trains, in the foreground when it ends; what is kept."""

import contextlib
from typing import Any

from pipeline.checkpoints.manifest import delete_checkpoint, list_checkpoints, step_of, to_delete
from pipeline.checkpoints.saving import CheckpointSaver
from pipeline.checkpoints.universal import delete_stale_conversions
from pipeline.config.schema import CheckpointSection
from pipeline.errors import CheckpointError
from pipeline.processes.cluster import Cluster
from pipeline.runs.run_dir import RunDir


class Checkpointing:
    """The checkpoints of a run while it trains. Every process calls the same methods in the same order."""

    def __init__(
        self, settings: CheckpointSection, run: RunDir, cluster: Cluster, saver: CheckpointSaver
    ) -> None:
        """Nothing saved yet."""
        self.settings, self.run, self.cluster, self.saver = settings, run, cluster, saver
        self.longest_seconds: float | None = None

    @property
    def is_written(self) -> bool:
        """Whether this process has done its part of a checkpoint that is not published yet."""
        return self.saver.is_written

    def save(self, step: int, state: dict[str, Any], *, wait: bool) -> None:
        """Save; with `wait`, or where the recipe wants it so, the checkpoint is published on return."""
        self.finish()  # a disk that is slower than the checkpoints come must not pile them up
        wait = wait or not self.settings.asynchronous
        self.saver.begin(step, state, asynchronous=not wait)
        if wait:
            self.finish()

    def publish_if_written(self, num_written: int) -> None:
        """At a step boundary: publish the pending checkpoint if as many processes as there are wrote it."""
        if self.saver.is_pending and num_written == self.cluster.world_size:
            self.finish()

    def finish(self) -> None:
        """Wait for a checkpoint that is being written, and publish it.

        Raises:
            CheckpointError: it could not be written.
        """
        if not self.saver.is_pending:
            return
        try:
            saved = self.saver.publish()
        except CheckpointError as error:
            with contextlib.suppress(OSError):  # the disk may be full
                self.run.add_event("save failed", reason=str(error))
            raise
        self.longest_seconds = max(self.longest_seconds or 0.0, saved.seconds)
        if self.cluster.is_main:
            self.run.add_event(
                "checkpoint",
                step=saved.step,
                seconds=round(saved.seconds, 3),
                stall_seconds=round(saved.stall_seconds, 3),
            )
            self._delete_old()

    def _delete_old(self) -> None:
        steps = [step_of(path) for path in list_checkpoints(self.run.checkpoints)]
        for step in to_delete(steps, self.settings.keep_last, self.settings.keep_every_steps):
            delete_checkpoint(self.run.checkpoints, step)
        delete_stale_conversions(self.run.checkpoints)
