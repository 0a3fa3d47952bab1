"""What can go wrong by a user's hand in training, beside data_prep's errors, and the exit codes."""

from data_prep.errors import DataError, UsageError, UserError

EXIT_STOPPED = 75  # a good checkpoint is on disk: run the same command again

__all__ = ["EXIT_STOPPED", "CheckpointError", "DataError", "RecipeError", "UsageError", "UserError"]


class RecipeError(UserError):
    """A recipe that cannot be run; the message lists every problem found."""

    exit_code = 78


class CheckpointError(UserError):
    """Checkpoints or run files that are missing, damaged or cannot be written."""

    exit_code = 74
