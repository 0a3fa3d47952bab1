"""A sample corpus from what is installed: the documentation strings of Python libraries.

Several megabytes of English prose on every machine, without a download. Source files are parsed, never
imported. One document per module (its docstring and its functions') and one per class (its docstring
and its methods'), as JSON lines: {"id": "numpy.linalg", "text": "..."}.
"""

import ast
import gc
import hashlib
import inspect
import json
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.files import replacing, sync_file
from data_prep.parallel import available_cores, map_in_order
from data_prep.progress import progress_bar

MIN_CHARACTERS = 200
_FILES_PER_TASK = 32
_SKIPPED_FOLDERS = {"test", "tests", "testing", "site-packages", "dist-packages", "__pycache__"}
_WRAPPED_CHARACTERS = 55  # a line this long was ended by the margin, not by its author
_LIST_MARKS = ("- ", "* ", "+ ", ":", "..", ">")
_WORD = re.compile(r"[A-Za-z]{2}")


class SourceFile(NamedTuple):
    """A Python source file and the dotted name of its module."""

    module: str
    path: Path


class DocumentParts(NamedTuple):
    """A document before duplicates are removed: the docstrings of one module or class."""

    name: str
    docstrings: list[str]


def write_sample(out: Path, max_bytes: int) -> tuple[int, int]:
    """Write the sample corpus to `out`, all of it or nothing.

    Args:
        out: A .jsonl file; replaced if there.
        max_bytes: Stop before the file grows beyond this. Modules come in a fixed shuffled order, so
            a smaller sample is the beginning of a larger one and as mixed.

    Returns:
        Documents and bytes written.
    """
    files = installed_sources()
    out.parent.mkdir(parents=True, exist_ok=True)
    num_documents = num_bytes = 0
    with replacing(out) as partial, partial.open("wb") as sink:
        for name, text in _distinct_documents(files):
            line = json.dumps({"id": name, "text": text}, ensure_ascii=False).encode() + b"\n"
            if num_bytes + len(line) > max_bytes:
                break
            sink.write(line)
            num_documents += 1
            num_bytes += len(line)
    sync_file(out.parent)
    return num_documents, num_bytes


def installed_sources() -> list[SourceFile]:
    """Every module of the standard library and of site-packages, tests left out, in shuffled order.

    The order depends on the modules' names only. A library comes first where names collide.
    """
    paths = sysconfig.get_paths()
    found: dict[str, SourceFile] = {}
    for root in dict.fromkeys((paths["purelib"], paths["platlib"], paths["stdlib"])):
        for path in _python_files(Path(root)):
            parts = path.relative_to(root).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.setdefault(module, SourceFile(module, path))
    return sorted(found.values(), key=lambda source: hashlib.blake2b(source.module.encode()).digest())


def documents_of(source: SourceFile) -> list[DocumentParts]:
    """The module document and the class documents of one source file; none if it is not Python."""
    try:
        tree = ast.parse(source.path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return []  # templates and deliberately broken fixtures carry the suffix .py too
    documents: list[DocumentParts] = []
    _collect(tree, source.module, documents)
    return documents


def prose(docstring: str) -> str:
    """A docstring's prose: indentation cleaned, wrapped lines joined, code and ruled lines dropped."""
    kept: list[str] = []
    width_before = 0
    for line in _without_code(inspect.cleandoc(docstring).splitlines()):
        bare = line.strip()
        if bare and width_before >= _WRAPPED_CHARACTERS and not bare.startswith(_LIST_MARKS):
            kept[-1] += " " + bare
        elif bare or (kept and kept[-1]):
            kept.append(line.rstrip())
        width_before = len(bare)
    return "\n".join(kept).strip()


def _without_code(lines: list[str]) -> Iterator[str]:
    """The lines, blank ones in place of doctests, fenced and literal blocks, and lines without a word."""
    in_doctest = in_fence = False
    literal_margin: int | None = None
    for line in lines:
        bare = line.strip()
        margin = len(line) - len(line.lstrip())
        if literal_margin is not None and bare and margin <= literal_margin:
            literal_margin = None
        is_fence = bare.startswith(("```", "~~~"))
        in_fence ^= is_fence
        # The lines after a prompt, up to the next blank line, are what the example prints.
        in_doctest = bare.startswith(">>>") or (in_doctest and bare != "" and not is_fence)
        is_code = is_fence or in_fence or in_doctest or literal_margin is not None
        yield "" if is_code or not _WORD.search(bare) else line
        if bare.endswith("::") and not bare.startswith(".."):
            literal_margin = margin


def _python_files(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED_FOLDERS)
        for name in sorted(names):
            is_test = name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"
            if name.endswith(".py") and not is_test:
                yield Path(folder, name)


def _collect(node: ast.Module | ast.ClassDef, name: str, documents: list[DocumentParts]) -> None:
    docstrings = [ast.get_docstring(node, clean=False)]
    classes: list[ast.ClassDef] = []
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            docstrings.append(ast.get_docstring(child, clean=False))
        elif isinstance(child, ast.ClassDef):
            classes.append(child)
    texts = [prose(docstring) for docstring in docstrings if docstring]
    documents.append(DocumentParts(name, [text for text in texts if text]))
    for child in classes:
        _collect(child, f"{name}.{child.name}", documents)


def _distinct_documents(files: list[SourceFile]) -> Iterator[tuple[str, str]]:
    """Name and text of every document; a docstring inherited or vendored elsewhere counts once."""
    seen: set[bytes] = set()
    tasks = [files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)]
    with progress_bar("documentation", len(files), " files") as bar:
        for task, documents in map_in_order(_documents_of_files, tasks, available_cores(), _start_parser):
            bar.update(len(task))
            for name, docstrings in documents:
                text = "\n\n".join(_unseen(docstrings, seen))
                if len(text) >= MIN_CHARACTERS:
                    yield name, text


def _unseen(docstrings: list[str], seen: set[bytes]) -> Iterator[str]:
    for text in docstrings:
        digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield text.encode(errors="replace").decode()


def _start_parser() -> None:
    warnings.simplefilter("ignore")  # invalid escapes in other people's strings
    gc.disable()  # syntax trees have no cycles; collecting them takes two thirds of the time


def _documents_of_files(files: list[SourceFile]) -> list[DocumentParts]:
    return [document for source in files for document in documents_of(source)]
