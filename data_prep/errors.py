"""Mistakes a user can mend, each with the exit code a batch system acts on (sysexits)."""

EXIT_DONE = 0
EXIT_USAGE = 64
EXIT_DATA = 65
EXIT_INTERNAL = 70
EXIT_FILES = 74
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Told to the user as one message without a traceback.

    The message names the file, line or key, the value found, and what to write instead.
    """

    exit_code = EXIT_INTERNAL


class UsageError(UserError):
    """A command line that cannot be carried out."""

    exit_code = EXIT_USAGE


class DataError(UserError):
    """An input or a corpus that cannot be read, or is not what its manifest says."""

    exit_code = EXIT_DATA
