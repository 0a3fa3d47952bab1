"""Recipes for runs that last seconds, usable from fixtures of any scope."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import TINY_RECIPE


@pytest.fixture(scope="session")
def recipe_file(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`recipe_file(train={"num_steps": 4}, model=None)`: values join a section, None removes it.

    A list, which `curriculum` is, is taken as it is. The run directory is given on the command line.
    """

    def write(**sections: dict[str, Any] | list[Any] | None) -> Path:
        settings = {"corpus": str(tiny_corpus), **copy.deepcopy(TINY_RECIPE)}
        for name, values in sections.items():
            if values is None:
                del settings[name]
            elif isinstance(values, list):
                settings[name] = values
            else:
                settings[name] = settings.get(name, {}) | values
        path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return path

    return write
