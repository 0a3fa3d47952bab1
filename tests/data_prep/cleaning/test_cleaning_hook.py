"""A user's own filter: found by name, and every way in which it can be wrong is told."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.cleaning.hook import hook_identity, load_hook
from data_prep.errors import DataError, UsageError

SOURCE = """
import math
LIMIT = 3

def keep_long(text):
    return None if len(text) > LIMIT else "tiny"

def fails(text):
    return math.log(len(text) - 5)

def says_yes(text):
    return True

def says_nothing(text):
    return ""
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory modules are found in, holding `hooks_under_test`."""
    (tmp_path / "hooks_under_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_hook_gives_a_reason_or_none() -> None:
    drop_reason = load_hook("hooks_under_test:keep_long")
    assert drop_reason("four") is None
    assert drop_reason("two") == "tiny"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hooks_under_test", r"'hooks_under_test': expected MODULE:FUNCTION, such as my_filters:keep_eng"),
        ("hooks_under_test:", r"expected MODULE:FUNCTION"),
        (":keep_long", r"'' is not the name of a module"),
        ("hooks_under_test.py:keep_long", r"expected MODULE:FUNCTION"),
        ("./hooks_under_test:keep_long", r"'\./hooks_under_test' is not the name of a module"),
        ("absent_module:keep", r"there is no module 'absent_module', neither in the current dir"),
        ("hooks_under_test.inner:keep", r"'hooks_under_test\.inner'"),
        (
            "hooks_under_test:keep_log",
            r"hooks_under_test\.py has no 'keep_log'; its functions are 'keep_long', 'fails', 'says_yes'",
        ),
        ("hooks_under_test:LIMIT", r"'LIMIT' in .*hooks_under_test\.py is not a function but int"),
        ("needs_absent:keep", r"'needs_absent' cannot be imported: No module named 'absent_module'"),
        ("broken:keep", r"'broken' cannot be imported: ZeroDivisionError: division by zero"),
        ("wrong_syntax:keep", r"'wrong_syntax' cannot be imported: SyntaxError: .*wrong_syntax\.py, line 1"),
    ],
)
def test_what_cannot_be_loaded_is_told(folder: Path, name: str, told: str) -> None:
    (folder / "needs_absent.py").write_text("import absent_module\n")
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "wrong_syntax.py").write_text("def keep(\n")
    with pytest.raises(UsageError, match=told):
        load_hook(name)


@pytest.mark.parametrize(
    ("function", "text", "told"),
    [
        (
            "fails",
            "four",
            r"'hooks_under_test:fails' failed with ValueError: .*; the document begins with 'four'",
        ),
        ("says_yes", "x" * 500, r"'hooks_under_test:says_yes' returned True; it must return None .*'x{60}'$"),
        ("says_nothing", "a", r"returned ''; it must return None to keep a document or a string"),
    ],
)
def test_a_hook_that_fails_on_a_document_is_told(function: str, text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        load_hook(f"hooks_under_test:{function}")(text)


def test_a_users_mistake_told_by_the_hook_itself_is_passed_on(folder: Path) -> None:
    (folder / "strict.py").write_text(
        "from data_prep.errors import UsageError\n\ndef keep(text):\n    raise UsageError('no word list')\n"
    )
    with pytest.raises(UsageError, match=r"^no word list$"):
        load_hook("strict:keep")("text")


def test_the_identity_changes_with_the_source(folder: Path) -> None:
    name = "hooks_under_test:keep_long"
    before = hook_identity(name)
    assert before.startswith(f"{name} sha256:")
    assert hook_identity(name) == before
    assert hook_identity("hooks_under_test:fails") != before
    (folder / "hooks_under_test.py").write_text(SOURCE.replace("LIMIT = 3", "LIMIT = 4"))
    assert hook_identity(name) != before


def test_a_module_without_a_source_file_is_known_by_its_name() -> None:
    assert hook_identity("sys:intern") == "sys:intern"
    with pytest.raises(UsageError, match="there is no module 'absent_module'"):
        hook_identity("absent_module:keep")


def test_the_example_of_the_docstring(folder: Path) -> None:
    from data_prep.cleaning import hook

    assert hook.__doc__ is not None
    example = hook.__doc__.split("`--filter my_filters:keep_english`:")[1].split("The function gets")[0]
    (folder / "my_filters.py").write_text("if True:\n" + example)
    script = (
        "from data_prep.cleaning.hook import load_hook\n"
        "keep = load_hook('my_filters:keep_english')\n"
        "print([keep('the cat sat in the sun and slept'), keep('der Hund liegt auf dem Sofa')])\n"
    )
    environment = {"PYTHONPATH": f"{folder}:{Path(__file__).parents[3]}"}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert result.stdout == "[None, 'not English']\n", result.stderr
