"""What a search in directories leaves aside, and what it takes for a document though it may be none: told."""

import os
from collections.abc import Iterable
from pathlib import Path

_SHOWN_NAMES = 3
# Text that stands beside a corpus more often than in it: the name before .txt, in lower case.
_BESIDE_A_CORPUS = {
    "authors",
    "changelog",
    "changes",
    "citation",
    "classes",
    "contributing",
    "copying",
    "labels",
    "licence",
    "license",
    "merges",
    "notice",
    "readme",
    "requirements",
    "vocab",
}


class PassedOver:
    """Files that a search came across; hidden ones are nobody's surprise and are not told."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._unknown: dict[Path, dict[Path, None]] = {}  # sets in the order found
        self._unreadable: dict[Path, dict[Path, None]] = {}

    def add_unknown(self, searched: Path, path: Path) -> None:
        """A file in the directory `searched` with an ending that is not one of ours."""
        self._unknown.setdefault(searched, {})[path] = None

    def add_unreadable(self, searched: Path, path: Path) -> None:
        """A link that leads nowhere, a pipe, or the like, in a directory or matched by a pattern."""
        self._unreadable.setdefault(searched, {})[path] = None

    def told(self) -> list[str]:
        """A line per kind and search."""
        return [
            f"{_not_read(searched, paths, 'the endings are unknown')}; give what is to be read another one, "
            "for example .txt or .jsonl (--help lists them)"
            for searched, paths in self._unknown.items()
        ] + [
            f"{_not_read(searched, paths, 'they are links to nothing, or no files')}; fetch what is meant"
            for searched, paths in self._unreadable.items()
        ]


def _not_read(searched: Path, paths: Iterable[Path], why: str) -> str:
    names = [path.relative_to(searched) if path.is_relative_to(searched) else path for path in paths]
    count = "1 file" if len(names) == 1 else f"{len(names):,} files"
    return f"not read: {count} of {printable(searched)}, because {why}: {listed_names(names)}"


def seem_no_documents(files: tuple[Path, ...]) -> list[Path]:
    """Files that are read as text and are rather about a corpus, of several that are read."""
    if len(files) == 1:
        return []
    return [
        path
        for path in files
        if path.name.lower().endswith(".txt") and path.name[:-4].lower() in _BESIDE_A_CORPUS
    ]


def printable(path: Path | str) -> str:
    r"""A path for a message, on one line, with what is not UTF-8 in it as '\xe9'."""
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def listed_names(paths: list[Path]) -> str:
    """The first few: 'a, b, c and 2 more'."""
    more = len(paths) - _SHOWN_NAMES
    return ", ".join(map(printable, paths[:_SHOWN_NAMES])) + (f" and {more:,} more" if more > 0 else "")
