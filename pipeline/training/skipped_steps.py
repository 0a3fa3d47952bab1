"""skipped_steps.json: how often a run was taken back, and which steps it passes over since.

Written before the run goes back and read at every start, so that a run that is killed and resumed trains the
same steps as one that was not.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.files import write_atomically
from pipeline.errors import CheckpointError


class Rollback(BaseModel):
    """One time that a run went back.

    Attributes:
        from_step: steps it had taken.
        to_step: steps of the checkpoint it went back to.
        steps: those that are passed over, as the logs count, from 1.
        rows: rows to blame for them, by corpus.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_step: int
    to_step: int
    steps: list[int]
    rows: dict[str, list[int]]


class SkippedSteps(BaseModel):
    """Everything that a run went back for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rollbacks: list[Rollback] = []

    @property
    def steps(self) -> frozenset[int]:
        """All steps that are passed over, as the logs count."""
        return frozenset(step for rollback in self.rollbacks for step in rollback.steps)

    def after(self, rollback: Rollback) -> "SkippedSteps":
        """With one more."""
        return SkippedSteps(rollbacks=[*self.rollbacks, rollback])

    @staticmethod
    def read(path: Path) -> "SkippedSteps":
        """What is written there; nothing if there is no file.

        Raises:
            CheckpointError: it is not readable. To go on without it would train other steps than before.
        """
        try:
            return SkippedSteps.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return SkippedSteps()
        except (OSError, ValidationError) as error:
            raise CheckpointError(
                f"{path} is not readable: {error}; restore it, or remove it to train the skipped steps"
            ) from error

    def write(self, path: Path) -> None:
        """Put this in the file's place."""
        write_atomically(path, self.model_dump_json(indent=2) + "\n")
