"""The table of docs/families.md is what whole commands do."""

from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from benchmarks.families import COLUMNS, make_corpus, try_family

DOCS = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")


def table() -> dict[str, dict[str, bool]]:
    """Model type -> column -> whether it works, as the page says."""
    lines = [line.strip("| ").split(" | ") for line in DOCS.splitlines() if line.startswith("| ")]
    header = next(line for line in lines if line[0] == "model type")
    assert tuple(header[1:]) == COLUMNS
    rows = lines[lines.index(header) + 1 :]
    return {name: {c: cell == "yes" for c, cell in zip(COLUMNS, cells)} for name, *cells in rows}


def test_every_model_type_is_in_the_table() -> None:
    assert sorted(table()) == sorted(MODEL_FOR_MASKED_LM_MAPPING_NAMES)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.matrix
@pytest.mark.parametrize("family", sorted(table()))
def test_the_family_does_what_the_table_says(family: str, corpus: Path, tmp_path: Path) -> None:
    works, told = try_family(family, corpus, tmp_path)

    assert works == table()[family], told
