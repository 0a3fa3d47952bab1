"""A run directory: where a run writes what.

recipe.yaml        the complete recipe, defaults included
environment.json   versions, commit, device, directory, corpora and DeepSpeed configuration of the first start
checkpoints/       see ../checkpoints/manifest.py
metrics.jsonl      see accounting/metrics.py
events.jsonl       a line per event: start, resume, converted, recipe changed, phase, patterns formed,
                   guidance holds back, checkpoint, save failed, corrupt checkpoint, skipped step, loss spike,
                   rollback, diverged, lost process, stop, requeue, not requeued, profile, done
skipped_steps.json see training/skipped_steps.py; only of a run that was taken back
snapshots/         see snapshot.py
attention/         see evaluation/attention_snapshot.py
profile/           see training/profiling.py; only of a run started with --profile
.lock              see lock.py
evaluation/        see evaluation/results.py
tensorboard/  report/  export/
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

from data_prep.files import write_atomically, write_json_atomically
from data_prep.format import read_manifest
from pipeline.config.load import parse_recipe, raise_problems, read_settings
from pipeline.config.schema import Recipe
from pipeline.errors import CheckpointError, UsageError
from pipeline.runs.lock import RunLock
from pipeline.runs.log_tail import parse_lines

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
        self.skipped_steps_file = self.path / "skipped_steps.json"
        self.tensorboard = self.path / "tensorboard"
        self.attention = self.path / "attention"
        self.profile = self.path / "profile"
        self.report = self.path / "report"
        self.export = self.path / "export"
        self.evaluation = self.path / "evaluation"
        self.lock = RunLock(self.path)

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

    def replace_recipe(self, recipe: Recipe, curriculum_sha256: list[str]) -> None:
        """Put a changed recipe, accepted by the user, in the place of the old one.

        `curriculum_sha256` is what its phases' corpora are compared with from now on; its paths are
        relative to the current directory.
        """
        if environment := self.read_environment():
            environment |= {"curriculum_sha256": curriculum_sha256, "started_in": str(Path.cwd())}
            write_json_atomically(self.environment_file, environment)
        write_atomically(self.recipe_file, yaml.safe_dump(_settings_of(recipe), sort_keys=False))

    def read_environment(self) -> dict[str, Any]:
        """What the run was first started with; empty if the file is gone or damaged."""
        try:
            return json.loads(self.environment_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

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
            # A last line that a crash cut short must not swallow this one.
            separator = "" if _ends_in_newline(self.events_file) else "\n"
            file.write(separator + json.dumps(line) + "\n")

    def read_events(self) -> list[dict[str, Any]]:
        """All events, oldest first; lines cut short by a crash are left out."""
        return read_json_lines(self.events_file)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file; lines cut short, as a crash leaves them, are left out."""
    if not path.is_file():
        return []
    return list(
        parse_lines(path.read_bytes().split(b"\n")[:-1])
    )  # what follows the last newline is unfinished


# Beyond rounding.
_CHANGES_NOTHING = ("train.micro_batch_size", "train.deepspeed", "train.compile", "data.num_workers")


def recipe_differences(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """Keys on which two recipes differ, with both values, where it changes what is computed."""
    return [
        difference
        for difference in _differences(_settings_compared(old), _settings_compared(new))
        # The corpus is compared by content, wherever it lies.
        if difference[0].split(".")[0]
        not in ("run_dir", "corpus", "evaluation", "checkpoint", "recovery", "logging")
        and difference[0] not in _CHANGES_NOTHING
    ]


def describe_environment(recipe: Recipe, deepspeed_config: dict[str, Any], world_size: int) -> dict[str, Any]:
    """What the run runs with, for environment.json."""
    return {
        "command": shlex.join(sys.argv),
        "started_in": str(Path.cwd()),  # what the recipe's paths are relative to
        "host": platform.node(),
        **describe_machine(),
        "world_size": world_size,
        "corpus_sha256": read_manifest(Path(recipe.corpus)).content_sha256(),
        "curriculum_sha256": [
            read_manifest(Path(phase.corpus)).content_sha256() for phase in recipe.phases[:-1]
        ],
        "deepspeed_config": deepspeed_config,
    }


def describe_machine() -> dict[str, Any]:
    """Commit, versions and device, for what is measured or run here."""
    on_cuda = torch.cuda.is_available()
    return {
        "commit": _git_commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name() if on_cuda else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


def _ends_in_newline(path: Path) -> bool:
    """Also true of an empty file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read(1) in (b"\n", b"")


def _settings_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, without the sizes that a checkpoint decides."""
    settings = recipe.model_dump()
    if recipe.model.checkpoint is not None:  # a snapshot of the recipe has it so
        settings["model"]["checkpoint"] = str(Path(recipe.model.checkpoint).absolute())
    if recipe.schedule.kind != "wsd":
        del settings["schedule"]["decay"]  # a recipe may not say it where it has no effect
    for key in recipe.guidance.without_effect():
        settings["guidance"].pop(key, None)
    if recipe.model.checkpoint is not None and not recipe.model.settings_beside_checkpoint():
        settings["model"] = {"checkpoint": settings["model"]["checkpoint"]}
    return settings


def _settings_compared(recipe: Recipe) -> dict[str, Any]:
    """The same, with those keys of the curriculum's phases that are compared like the recipe's own."""
    settings = _settings_of(recipe)
    settings["curriculum"] = [
        {key: phase[key] for key in ("until", "global_batch_size")} for phase in settings["curriculum"]
    ]
    return settings


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
            # Heads are given out in the order written.
            is_heads = f"{prefix}{key}".startswith("guidance.heads")
            if is_heads and before == after and list(before) != list(after):
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
    root = Path(__file__).parents[2]
    if root.parent.name == "snapshots":  # of a run; git would speak of whatever lies around it
        return f"snapshot {root.name}"
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
