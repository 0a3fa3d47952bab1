"""Recipes as objects, and the vocabulary of the tiny corpus."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import parse_recipe
from pipeline.config.schema import Recipe
from pipeline.data.corpus import Vocabulary, read_vocabulary
from pipeline.processes.cluster import Cluster


@pytest.fixture(scope="session")
def vocabulary(tiny_corpus: Path) -> Vocabulary:
    return read_vocabulary(tiny_corpus)


@pytest.fixture
def make_recipe(tiny_recipe: Callable[..., dict[str, Any]]) -> Callable[..., Recipe]:
    """The tiny recipe with dotted overrides, parsed; it must be in order."""

    def make(overrides: dict[str, Any] | None = None) -> Recipe:
        recipe, problems = parse_recipe(tiny_recipe(overrides))
        assert not problems
        assert recipe is not None
        return recipe

    return make


@pytest.fixture
def alone() -> Cluster:
    """A cluster of this process only, in host memory."""
    import torch

    return Cluster(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))
