"""What can go wrong by a user's hand in training, beside data_prep's errors, and the exit codes."""

from data_prep.errors import EXIT_FILES, EXIT_INTERNAL, DataError, UsageError, UserError

EXIT_STOPPED = 75  # a good checkpoint is on disk: run the same command again
EXIT_LOST = 69  # a process of the run died or hung: run the same command again

__all__ = [
    "EXIT_LOST",
    "EXIT_STOPPED",
    "CheckpointError",
    "DataError",
    "DivergedError",
    "LostProcessError",
    "RecipeError",
    "UsageError",
    "UserError",
    "exit_code_of",
]


class RecipeError(UserError):
    """A recipe that cannot be run; the message lists every problem found."""

    exit_code = 78


class DivergedError(UserError):
    """A run whose losses are no numbers any more; the message names steps, rows and what to try.

    The exit code is that of a bad recipe: the same command would end in the same way.
    """

    exit_code = RecipeError.exit_code


class LostProcessError(UserError):
    """A process of the run died, hangs or cannot be reached; the message names it."""

    exit_code = EXIT_LOST


class CheckpointError(UserError):
    """Checkpoints or run files that are missing, damaged or cannot be written."""

    exit_code = EXIT_FILES


def exit_code_of(error: Exception) -> int:
    """The exit code an error ends with: a full disk or a lost file system is file trouble, not a defect."""
    if isinstance(error, UserError):
        return error.exit_code
    return EXIT_FILES if isinstance(error, OSError) else EXIT_INTERNAL
