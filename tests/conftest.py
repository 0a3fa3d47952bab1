"""What training tests share: a tiny corpus made by the real commands, and a tiny recipe for it."""

import contextlib
import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import settings

# Before any library reads them; training processes started by a test inherit them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads cost more than they give

if not torch.cuda.is_available():
    # Whether kernels are interpreted is settled when triton is first imported, and many libraries import it.
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ImportError):
        patch.setenv("TRITON_INTERPRET", "1")
        import triton  # noqa: F401

_SLURM_TESTS = Path(__file__).parent / "slurm"

settings.register_profile("lodestar", deadline=None, derandomize=True, database=None)
settings.load_profile("lodestar")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is none; those that share fixtures share a process.

    With several processes (pytest-xdist) a file's tests stay together, and those with SLURM share one
    cluster. They wait the longest, so they begin first.
    """
    for item in items:
        with_slurm = _SLURM_TESTS in item.path.parents
        item.add_marker(pytest.mark.xdist_group("slurm" if with_slurm else str(item.path)))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    items.sort(key=lambda item: _SLURM_TESTS not in item.path.parents)


TINY_LENGTH = 32
TINY_RECIPE: dict[str, Any] = {
    "seed": 1,
    "model": {
        "family": "roberta",
        "num_layers": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "intermediate_size": 64,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "guidance": {"heads": {"next": 1, "previous": 1, "first": 1}, "weight": 0.1},
    "optimizer": {"learning_rate": 1e-3},
    "train": {
        "num_steps": 12,
        "global_batch_size": 8,
        "micro_batch_size": 4,
        "precision": "fp32",
        "deepspeed": "zero1",
    },
    "data": {"num_workers": 0},
    "evaluation": {"every_steps": 6, "max_rows": 16},
    "checkpoint": {"every_steps": 4},
    "logging": {"every_steps": 2, "tensorboard": False},
}


@pytest.fixture(scope="session")
def tiny_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON-lines file of about a hundred docstring documents."""
    path = tmp_path_factory.mktemp("documents") / "docs.jsonl"
    _prepare("sample", path, "--max-bytes", 150_000)
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory, tiny_documents: Path) -> Path:
    """A byte-level BPE tokenizer directory of 600 entries."""
    path = tmp_path_factory.mktemp("tokenizers") / "bpe"
    _prepare("tokenizer", tiny_documents, "--out", path, "--vocab-size", 600)
    return path


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory, tiny_documents: Path, tiny_tokenizer: Path) -> Path:
    """A corpus directory of 32-token rows in several shards, a fifth held out; not to be changed."""
    path = tmp_path_factory.mktemp("corpora") / "tiny"
    _prepare(
        *("shard", tiny_documents, "--tokenizer", tiny_tokenizer, "--out", path, "--workers", 1),
        *("--length", TINY_LENGTH, "--valid-fraction", 0.2, "--shards", 3),
    )
    return path


@pytest.fixture(scope="session")
def short_corpus(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    """The tiny corpus in rows of 16 tokens; not to be changed."""
    path = tmp_path_factory.mktemp("corpora") / "short"
    _prepare("repack", tiny_corpus, "--out", path, "--length", TINY_LENGTH // 2, "--workers", 1)
    return path


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A function from a data set's name to its directory; the test is skipped where that is absent."""

    def find(name: str) -> Path:
        path = Path(__file__).parents[2] / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"needs the data set {name} in {path.parent}")
        return path

    return find


@pytest.fixture
def tiny_recipe(tiny_corpus: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A function from dotted overrides to the settings of a run that takes seconds.

    `tiny_recipe({"train.num_steps": 4, "guidance.heads": {}})`; the run goes to `tmp_path / "run"`, and a
    value of `...` removes its key.
    """

    def make(overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        paths = {"run_dir": str(tmp_path / "run"), "corpus": str(tiny_corpus)}
        recipe = paths | copy.deepcopy(TINY_RECIPE)
        for key, value in (overrides or {}).items():
            _put(recipe, key.split("."), value)
        return recipe

    return make


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes settings as YAML, to `tmp_path / "recipe.yaml"` unless told otherwise."""

    def write(recipe: dict[str, Any], name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        return path

    return write


def _prepare(*arguments: object) -> None:
    from data_prep.__main__ import main

    assert main([str(argument) for argument in arguments]) == 0


def _put(settings: dict[str, Any], keys: list[str], value: Any) -> None:
    *parents, last = keys
    for parent in parents:
        settings = settings.setdefault(parent, {})
    if value is ...:
        del settings[last]
    else:
        settings[last] = value
