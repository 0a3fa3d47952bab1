"""A run directory: where a run writes what.

recipe.yaml        the complete recipe, defaults included
environment.json   versions, commit, device, corpus and DeepSpeed configuration of the first start
checkpoints/       see checkpoint.py
metrics.jsonl      see metrics.py
events.jsonl       one line per event: start, resume, checkpoint, signal, stop, corrupt checkpoint, done
tensorboard/  report/  export/  evaluation.json
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from data_prep.files import sha256_file, write_atomically, write_json_atomically
from data_prep.format import MANIFEST_NAME
from pipeline.config.load import parse_recipe, raise_problems, read_settings
from pipeline.config.schema import Recipe
from pipeline.errors import CheckpointError, UsageError
from pipeline.model import sizes_set_beside_checkpoint

_PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "pyarrow", "numpy")


class RunDir:
    """Paths of a run and its small files."""

    def __init__(self, path: str | Path) -> None:
        """`path` need not exist yet."""
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.environment_file = self.path / "environment.json"
        self.checkpoints = self.path / "checkpoints"
        self.metrics_file = self.path / "metrics.jsonl"
        self.events_file = self.path / "events.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.report = self.path / "report"
        self.export = self.path / "export"
        self.evaluation_file = self.path / "evaluation.json"

    @staticmethod
    def open(path: str) -> "RunDir":
        """A directory that holds a run; a UsageError otherwise."""
        run = RunDir(path)
        if not run.holds_run():
            raise UsageError(
                f"{path} holds no run (no recipe.yaml); name the run_dir of a recipe that was trained"
            )
        return run

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.recipe_file.is_file()

    def create(self, recipe: Recipe, environment: dict[str, Any]) -> None:
        """Write the files of a first start; recipe.yaml, which makes it a run, last."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_json_atomically(self.environment_file, environment)
            write_atomically(self.recipe_file, yaml.safe_dump(_settings_of(recipe), sort_keys=False))
        except OSError as error:
            raise CheckpointError(f"cannot write the run directory {self.path}: {error}") from error

    def read_recipe(self) -> Recipe:
        """The recipe the run was started with."""
        recipe, problems = parse_recipe(read_settings(self.recipe_file, []))
        raise_problems(str(self.recipe_file), problems)
        assert recipe is not None
        return recipe

    def add_event(self, kind: str, **details: Any) -> None:
        """Append a line to events.jsonl."""
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "event": kind, **details}
        with self.events_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_events(self) -> list[dict[str, Any]]:
        """All events, oldest first; a line cut short by a crash is left out."""
        return read_json_lines(self.events_file)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file; an unfinished last line, as a crash leaves it, is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    complete = [line for line in lines[:-1] if line]  # what follows the last newline is unfinished
    return [json.loads(line) for line in complete]


def recipe_differences(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """Keys on which two recipes differ, with both values, where it changes what is computed."""
    return [
        difference
        for difference in _differences(_settings_of(old), _settings_of(new))
        if difference[0].split(".")[0] not in ("run_dir", "data", "evaluation", "checkpoint", "logging")
        and difference[0] != "train.micro_batch_size"
    ]


def describe_environment(recipe: Recipe, deepspeed_config: dict[str, Any], world_size: int) -> dict[str, Any]:
    """What the run runs with, for environment.json."""
    on_cuda = torch.cuda.is_available()
    return {
        "command": shlex.join(sys.argv),
        "commit": _git_commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "host": platform.node(),
        "device": torch.cuda.get_device_name() if on_cuda else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "world_size": world_size,
        "corpus_manifest_sha256": sha256_file(Path(recipe.corpus) / MANIFEST_NAME),
        "deepspeed_config": deepspeed_config,
    }


def _settings_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, without the sizes that a checkpoint decides."""
    settings = recipe.model_dump()
    if recipe.model.checkpoint is not None and not sizes_set_beside_checkpoint(recipe.model):
        settings["model"] = {"checkpoint": recipe.model.checkpoint}
    return settings


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
            # Heads are given out in the order written.
            if not found and list(before) != list(after) and before == after:
                found.append((f"{prefix}{key}", list(before), list(after)))
        elif before != after:
            found.append((f"{prefix}{key}", before, after))
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str | None:
    """Commit of this source tree, with "+changes" if files differ from it; None outside git."""
    root = Path(__file__).parents[1]
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
