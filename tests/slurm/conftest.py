"""A SLURM cluster for the session, and a source tree that jobs run from and tests may edit."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import recipe_file  # noqa: F401 - a fixture
from tests.slurm.slurm_cluster import SlurmCluster, missing_for_slurm, running_cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Skips where SLURM cannot run, unless LODESTAR_REQUIRE_SLURM=1 says that it must."""
    if reason := missing_for_slurm():
        if os.environ.get("LODESTAR_REQUIRE_SLURM") == "1":
            pytest.fail(f"LODESTAR_REQUIRE_SLURM=1, but {reason}")
        pytest.skip(reason)
    with running_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the source tree; jobs are submitted in it and write their logs there."""
    root = tmp_path / "source"
    root.mkdir()
    for name in ("pipeline", "data_prep", "ds_configs", "slurm"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root
