"""A filter of the user's own: a Python function that says why a document is dropped.

In a file `my_filters.py` in the current directory, for `--filter my_filters:keep_english`:

    def keep_english(text):
        words = text.split()
        common = sum(word in {"the", "of", "and", "to", "in", "a"} for word in words)
        return None if common > len(words) / 20 else "not English"

The function gets the cleaned text and returns None to keep the document, or a string to drop it; documents
are counted by that string. It is called in the tokenizing processes, in no particular order: its answer must
follow from the text alone.
"""

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from data_prep.errors import DataError, UsageError, UserError

DropReason = Callable[[str], str | None]

_EXAMPLE = "expected MODULE:FUNCTION, such as my_filters:keep_english"
_IDENTITY_DIGITS = 16
_SHOWN_CHARACTERS = 60


def load_hook(name: str) -> DropReason:
    """The function that `name`, "package.module:function", means.

    Raises:
        UsageError: There is no such function; the message says how far the search came.

    The function returned raises a DataError that names the hook where the hook fails or does not return
    None or a reason.
    """
    module, function_name = _import_module(name)
    function = getattr(module, function_name, None)
    if function is None:
        raise UsageError(
            f"filter {name!r}: {_place(module)} has no {function_name!r}; "
            f"its functions are {_own_functions(module)}"
        )
    if not callable(function):
        kind = type(function).__name__
        raise UsageError(
            f"filter {name!r}: {function_name!r} in {_place(module)} is not a function but {kind}"
        )

    def drop_reason(text: str) -> str | None:
        try:
            reason = function(text)
        except UserError:
            raise
        except Exception as error:
            raise DataError(
                f"filter {name!r} failed with {type(error).__name__}: {error}; {_shown(text)}"
            ) from error
        if reason is None or (isinstance(reason, str) and reason):
            return reason
        raise DataError(
            f"filter {name!r} returned {reason!r}; it must return None to keep a document or a string, "
            f"the reason, to drop it; {_shown(text)}"
        )

    return drop_reason


def hook_identity(name: str) -> str:
    """The hook's name and a hash of the file it is in, by which a change of the hook is noticed.

    What the file imports is not part of the hash.

    Raises:
        UsageError: There is no such module.
    """
    module, _ = _import_module(name)
    source = getattr(module, "__file__", None)
    if source is None:
        return name
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    return f"{name} sha256:{digest[:_IDENTITY_DIGITS]}"


def _import_module(name: str) -> tuple[ModuleType, str]:
    """The module named before the colon, and the function's name behind it."""
    module_name, colon, function_name = name.partition(":")
    if not colon or not function_name.isidentifier() or module_name.endswith(".py"):
        raise UsageError(f"filter {name!r}: {_EXAMPLE}")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(f"filter {name!r}: {module_name!r} is not the name of a module; {_EXAMPLE}")
    try:
        return importlib.import_module(module_name), function_name
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"filter {name!r}: there is no module {error.name!r}, neither in the current directory "
                "nor installed"
            ) from error
        raise UsageError(f"filter {name!r}: module {module_name!r} cannot be imported: {error}") from error
    except Exception as error:
        raise UsageError(
            f"filter {name!r}: module {module_name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _own_functions(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", "") == module.__name__
    ]
    return ", ".join(map(repr, names)) or "none"


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__


def _shown(text: str) -> str:
    return f"the document begins with {text[:_SHOWN_CHARACTERS]!r}"
