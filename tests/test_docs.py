"""What docs/guidance.md shows and claims in numbers is what the code does."""

import re
from pathlib import Path

import pytest
import yaml

from pipeline.config.schema import GuidanceSection, Recipe
from pipeline.guidance.allocation import PRESETS, allocate, head_table
from pipeline.guidance.patterns import TOKEN_PATTERNS, parse_pattern
from pipeline.guidance.schedule import DEFAULT_WEIGHTS, scaled_weight, weight_of_alpha

DOCS = Path(__file__).parents[1] / "docs"
GUIDANCE = (DOCS / "guidance.md").read_text(encoding="utf-8")
SCHEMA = GuidanceSection.model_fields


def rows_under(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its first line."""
    section = GUIDANCE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def test_recipes_shown_are_valid_and_give_heads():
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDANCE, flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        guidance = GuidanceSection.model_validate(yaml.safe_load(block)["guidance"])
        table = head_table(guidance.heads, guidance.layers_of(12), 12)
        if "heads" in guidance.model_fields_set:
            assert allocate(table).guided_layers


def test_values_called_defaults_are_the_defaults():
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", GUIDANCE, flags=re.DOTALL) if "plateau" in b)
    shown = yaml.safe_load(block)["guidance"]
    assert shown.pop("end") == 1.0  # the same as null: at the last step
    assert shown == {key: SCHEMA[key].default for key in shown}
    assert f"`error: {GuidanceSection().row_error}` (the default" in GUIDANCE
    assert f"For cross-entropy, where it is {DEFAULT_WEIGHTS['cross_entropy']} by\ndefault" in GUIDANCE
    assert f"For squared errors, where it is {DEFAULT_WEIGHTS['squared']}, it" in GUIDANCE
    assert f"`bias` (default {SCHEMA['bias'].default})" in GUIDANCE


def test_every_pattern_named_exists():
    names = [name for row in rows_under("Patterns") for name in re.findall(r"`([^`]+)`", row[0])]
    assert set(names) >= {"next", "previous", "self", "first", "last", *TOKEN_PATTERNS}
    for name in names:
        parse_pattern(name.replace("K", "3"))


def test_presets_are_described_as_they_are():
    described = {
        row[0].strip("`").removeprefix("heads: "): row[1] for row in rows_under("Which heads of which layers")
    }
    assert described.keys() == set(PRESETS)
    for name, text in described.items():
        counts = [yaml.safe_load("{" + part + "}") for part in re.findall(r"`([^`]+)`", text)]
        found = head_table(name, None, 3)
        assert found == (counts if len(counts) == 3 else counts * 3)


def test_table_of_weights_is_the_formula():
    rows = rows_under("Weight, and the authors' alpha")
    assert len(rows) >= 5
    for alpha, layers, types, length, factor, weight in (
        [float(cell.strip("`")) for cell in row] for row in rows
    ):
        exact = weight_of_alpha(alpha, int(layers * types), int(length))
        assert factor == pytest.approx(exact, rel=5e-3)
        assert scaled_weight(weight, "squared", int(length)) == pytest.approx(exact, rel=5e-3)


def test_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)|<img src=\"([^\"]+)\"", GUIDANCE):
        for path in target:
            assert not path or "://" in path or (DOCS / path).exists(), path


def test_curriculum_shown_is_a_recipe():
    text = (DOCS / "curriculum.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    recipe = Recipe.model_validate({"run_dir": "run", **yaml.safe_load(block)})
    assert [phase.end_step for phase in recipe.phases] == [2_000, 90_000, 100_000]
    assert [phase.micro_batch_size(8) for phase in recipe.phases] == [32, 128, 32]
