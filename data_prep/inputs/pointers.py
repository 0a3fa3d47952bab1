"""Files that only stand for others: what git keeps where Git LFS or git-annex hold the content."""

from typing import BinaryIO

from data_prep.inputs.damage import DamagedFile

_POINTER_BYTES = 1024  # Git LFS writes no larger ones
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get"),
}


def check_is_no_pointer(file: BinaryIO) -> None:
    """Leaves the open file at its beginning.

    Raises:
        DamagedFile: It is a pointer, whatever its ending; the message says how to get the real file.
    """
    beginning = file.read(_POINTER_BYTES)
    file.seek(0)
    for first, (name, command) in _POINTERS.items():
        if beginning.startswith(first) and len(beginning) < _POINTER_BYTES:
            raise DamagedFile(
                "pointer file", f"a pointer of {name}, the real file was not fetched: {command}"
            )
