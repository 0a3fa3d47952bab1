"""Sources: which files are read, in which order, and where their text is."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.errors import DataError, UsageError
from data_prep.files import read_json_object
from data_prep.inputs.formats import ENDINGS, file_format
from data_prep.inputs.passed_over import PassedOver, printable

TextDocuments = Literal["file", "block", "line"]
Quoting = Literal["standard", "none"]

PLAIN_SOURCE_NAME = "corpus"


@dataclass(frozen=True)
class Source:
    """A corpus of its own right: files that are read in order, counted and repeated together.

    Attributes:
        name: What it is called in a mixture.
        files: The files, each once; a directory is expanded already.
        text_fields: Fields or columns whose texts, joined by a blank line, are a document.
        text_documents: What a document is in a text file.
        quoting: Whether quotes in .csv and .tsv files mean what they mean to the csv module, or nothing.
        encoding: Of files of lines, as Python spells it, or "auto": told by the beginning of each.
        repeat: How many times the source is seen for every time of another with 1.0.
    """

    name: str
    files: tuple[Path, ...]
    text_fields: tuple[str, ...]
    text_documents: TextDocuments
    repeat: float
    quoting: Quoting = "standard"
    encoding: str = "utf-8"


def plain_source(
    files: Iterable[Path],
    text_fields: Iterable[str],
    text_documents: TextDocuments,
    quoting: Quoting = "standard",
    encoding: str = "utf-8",
) -> Source:
    """The one source of a command line without a mixture."""
    fields = tuple(dict.fromkeys(text_fields))
    return Source(PLAIN_SOURCE_NAME, tuple(files), fields, text_documents, 1.0, quoting, encoding)


def find_files(inputs: Iterable[str], passed_over: PassedOver | None = None) -> list[Path]:
    """The files that `inputs` mean, each once, in the order given.

    Args:
        inputs: Files, directories (searched recursively, without hidden entries), directories written by
            `datasets.Dataset.save_to_disk`, glob patterns, and '@LIST' for a file with one such input
            per line. The files of a directory or a pattern come sorted by path.
        passed_over: Is given what the directories hold beside files that can be read.

    Raises:
        DataError: An input does not exist, or holds no file that can be read, or one whose path is not
            UTF-8, as the manifest is.
        UsageError: A file named outright has an unknown ending.
    """
    passed_over = passed_over or PassedOver()
    found: dict[str, Path] = {}
    for name in inputs:
        listed = name.startswith("@")
        for path in _listed(Path(name[1:]), passed_over) if listed else _meant(name, passed_over):
            _check_name(path)
            found.setdefault(identity(path), path)
    return list(found.values())


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{printable(path)}: the name is not UTF-8, and the manifest could not name the file; rename it"
        ) from error


def identity(path: Path) -> str:
    """What two spellings of one path have in common."""
    return os.path.abspath(path)  # noqa: PTH100 (resolve would ask the file system about every directory)


def _listed(list_file: Path, passed_over: PassedOver) -> Iterator[Path]:
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{list_file}: a list of inputs must be UTF-8 text, one input per line") from error
    except OSError as error:
        raise DataError(f"{list_file}: cannot read this list of inputs: {error.strerror}") from error
    names = {number: line.strip() for number, line in enumerate(lines, start=1)}
    names = {number: name for number, name in names.items() if name and not name.startswith("#")}
    if not names:
        raise DataError(f"{list_file}: this list holds no input; write one per line")
    for number, name in names.items():
        if name.startswith("@"):
            raise UsageError(f"{list_file}, line {number}: {name}: a list cannot name another list")
        try:
            yield from _meant(name, passed_over)
        except (DataError, UsageError) as error:
            raise type(error)(f"{list_file}, line {number}: {error}") from error


def _meant(name: str, passed_over: PassedOver) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return _inside(path, passed_over)
    if path.exists():
        if file_format(path) is None:
            raise UsageError(f"{path}: cannot tell its format by its ending; expected {ENDINGS}")
        if not path.is_file():
            raise UsageError(f"{path}: not a regular file; save what it gives to one")
        return [path]
    if glob.has_magic(name):
        return _matching(name, passed_over)
    raise DataError(f"{path}: no such file or directory")


def _inside(folder: Path, passed_over: PassedOver) -> list[Path]:
    """The files of a directory that can be read, those below it too."""
    files = []
    for path in _walk(folder, frozenset()):
        if not path.is_file():
            passed_over.add_unreadable(folder, path)
        elif file_format(path) is None:
            passed_over.add_unknown(folder, path)
        else:
            files.append(path)
    if not files:
        raise DataError(f"{folder}: this directory holds no file with one of the endings {ENDINGS}")
    return files


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Everything but directories and what is hidden, in order."""
    real = folder.resolve()
    if real in above:  # a symbolic link back up
        return
    if (folder / "dataset_dict.json").is_file():
        raise DataError(_which_split(folder))
    if _is_saved_dataset(folder):
        yield from _saved_dataset_files(folder)
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot read this directory: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, above | {real})
        else:
            yield entry


def _matching(pattern: str, passed_over: PassedOver) -> list[Path]:
    # Path.glob takes no absolute pattern.
    paths = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207
    files = [path for path in paths if path.is_file()]
    for path in paths:
        if not path.is_file() and not path.is_dir():
            passed_over.add_unreadable(Path(pattern), path)
    if not files:
        raise DataError(f"{pattern}: no file matches this pattern")
    for path in files:
        if file_format(path) is None:
            raise UsageError(f"{path} (from {pattern}): cannot tell its format; expected {ENDINGS}")
    return files


def _which_split(folder: Path) -> str:
    try:
        splits = [f"{folder / name}" for name in read_json_object(folder / "dataset_dict.json")["splits"]]
    except (KeyError, TypeError):
        splits = []
    names = f", for example {splits[0]}" if splits else ""
    return f"{folder}: this is a DatasetDict of several splits; name the one to read{names}"


def _is_saved_dataset(folder: Path) -> bool:
    state = folder / "state.json"
    return state.is_file() and (folder / "dataset_info.json").is_file()


def _saved_dataset_files(folder: Path) -> list[Path]:
    state = read_json_object(folder / "state.json")
    # Versions of datasets before 2.0 wrote an indices mapping instead of applying it.
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(
            f"{folder}: this dataset has an indices mapping (it was selected or shuffled); call "
            "flatten_indices() on it and save it again"
        )
    try:
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'state.json'}: does not name its files; save the dataset again"
        ) from error
    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: missing, but named in {folder / 'state.json'}")
        if file_format(path) != "arrow":
            raise DataError(f"{path}: named in {folder / 'state.json'}, but not an .arrow file")
    return files
