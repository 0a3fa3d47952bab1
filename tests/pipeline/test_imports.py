"""Which package may import what, by reading every source file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = {
    *("data_prep.format", "data_prep.files", "data_prep.errors"),
    # A corpus has a tokenizer in it, which all read in one way.
    *(
        f"data_prep.tokenizing.{name}"
        for name in ("directory", "frame", "identity", "opening", "probe_texts", "special_tokens")
    ),
}


def imported_modules(file: Path) -> Iterator[str]:
    """Absolute names of all modules a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "data_prep":  # from data_prep import format
                yield from (f"data_prep.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def imports_of(package: str) -> list[tuple[Path, str]]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return [(file, module) for file in files for module in imported_modules(file)]


def top_of(module: str) -> str:
    return module.partition(".")[0]


def test_pipeline_shares_only_the_format_with_data_prep() -> None:
    wrong = [
        (str(file), module)
        for file, module in imports_of("pipeline")
        if top_of(module) == "data_prep" and module not in SHARED
    ]
    assert wrong == []


def test_data_prep_knows_nothing_of_training() -> None:
    forbidden = {"pipeline", "torch", "deepspeed", "benchmarks"}
    wrong = [(str(file), module) for file, module in imports_of("data_prep") if top_of(module) in forbidden]
    assert wrong == []


def test_what_is_shared_needs_no_other_part_of_data_prep() -> None:
    wrong = [
        (name, module)
        for name in SHARED
        for module in imported_modules(ROOT / f"{name.replace('.', '/')}.py")
        if top_of(module) == "data_prep" and module not in SHARED
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["data_prep", "pipeline"])
def test_packages_import_nothing_of_tests_or_benchmarks(package: str) -> None:
    wrong = [
        (str(file), module)
        for file, module in imports_of(package)
        if top_of(module) in ("tests", "benchmarks", "pytest", "hypothesis")
    ]
    assert wrong == []
