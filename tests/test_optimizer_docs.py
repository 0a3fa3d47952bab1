"""What docs/optimizers.md says of keys and values is so."""

import math
import re
import textwrap
from pathlib import Path
from typing import get_args

import yaml

from pipeline.config.schema import OptimizerSection

TEXT = (Path(__file__).parents[1] / "docs" / "optimizers.md").read_text(encoding="utf-8")


def test_recipe_shown_has_all_keys_and_their_defaults() -> None:
    block = re.search(r"\n\n((?:    .*\n)+)", TEXT)
    assert block is not None
    shown = yaml.safe_load(
        textwrap.dedent(block.group(1)).replace("5e-4", "5.0e-4").replace("1e-6", "1.0e-6")
    )
    assert shown == {"optimizer": OptimizerSection().model_dump()}


def test_kinds_are_those_of_the_recipe() -> None:
    told = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)
    assert tuple(told) == get_args(OptimizerSection.model_fields["kind"].annotation)


def test_rates_of_lamb_follow_the_rule_told() -> None:
    high, rows, low, fewer = re.search(r"BERT-large: (\S+) at ([\d,]+) rows, (\S+) at (\d+);", TEXT).groups()  # type: ignore[union-attr]
    factor = math.sqrt(int(rows.replace(",", "")) / int(fewer))
    assert float(high) / float(low) == factor
