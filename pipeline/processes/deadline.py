"""The end of a batch job's time, and how long before it to stop."""

import os
import time

END_TIME_VARIABLE = "SLURM_JOB_END_TIME"  # seconds since 1970
_SPARE_SECONDS = 30.0  # to leave the process group and let the batch script ask for a requeue
_FIRST_SAVE_SECONDS = 60.0  # as long as no checkpoint has been timed
_SHARE = 0.1  # neither is more than that of the time there is: a job of a minute must get somewhere


class Deadline:
    """When the batch system will end this job, if it has said so."""

    def __init__(self, end_time: float | None, now: float | None = None) -> None:
        """`end_time` in seconds since 1970; None: never."""
        self.end_time = end_time
        self._begin = time.time() if now is None else now

    @staticmethod
    def from_environment() -> "Deadline":
        """What SLURM says; a value that is no number counts as no deadline."""
        text = os.environ.get(END_TIME_VARIABLE, "")
        return Deadline(float(text) if text.isdigit() and text != "0" else None)

    def is_near(self, save_seconds: float | None, step_seconds: float, now: float | None = None) -> bool:
        """Whether it is time to save and stop.

        Args:
            save_seconds: the longest that a checkpoint took so far; None if there was none.
            step_seconds: the longest step.
            now: seconds since 1970.
        """
        if self.end_time is None:
            return False
        share = _SHARE * (self.end_time - self._begin)
        save = min(_FIRST_SAVE_SECONDS, share) if save_seconds is None else save_seconds
        # Twice, because a file system that all jobs save to at once is slower than it was before.
        needed = 2 * (save + step_seconds) + min(_SPARE_SECONDS, share)
        return (time.time() if now is None else now) > self.end_time - needed
