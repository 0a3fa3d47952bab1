"""Which checkpoints there are, what each should hold, which is whole, which may go.

    checkpoints/step-00001000/            DeepSpeed's files, a state-rank-*.pt per process, MANIFEST.json
    checkpoints/latest                    name of the newest published one
    checkpoints/converted/step-00001000/  the same for another number of processes or ZeRO stage

A checkpoint has its final name only when it is complete (saving.py), and is loaded only after every file has
proved to be what MANIFEST.json says.
"""

import logging
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from data_prep.files import sha256_file, sync_file
from pipeline.errors import CheckpointError

MANIFEST_NAME = "MANIFEST.json"
LATEST_NAME = "latest"
PARTIAL_PREFIX, _DELETED_PREFIX = ".partial-", ".deleted-"
logger = logging.getLogger(__name__)
_RETRY_SECONDS = (1.0, 5.0)
_STEP_NAME = re.compile(r"step-(\d{8,})")


class CheckpointFile(BaseModel):
    """One file of a checkpoint."""

    bytes: int
    sha256: str


class CheckpointManifest(BaseModel):
    """MANIFEST.json: what a checkpoint holds and who can load it."""

    format_version: int = 1
    step: int
    world_size: int
    zero_stage: int
    files: dict[str, CheckpointFile]
    converted_from: str | None = None  # sha256 of the source's MANIFEST.json


@dataclass(frozen=True)
class Damage:
    """Why a checkpoint cannot be used."""

    path: Path
    reasons: list[str]

    def __str__(self) -> str:
        return f"{self.path}: {'; '.join(self.reasons)}"


def checkpoint_name(step: int) -> str:
    """Directory name of the checkpoint taken after `step` steps."""
    return f"step-{step:08d}"


def state_name(rank: int) -> str:
    """Name of the file with the state of one process beside DeepSpeed's."""
    return f"state-rank-{rank:05d}.pt"


def list_checkpoints(directory: Path) -> list[Path]:
    """Published checkpoints, newest first."""
    found = [path for path in directory.glob("step-*") if _STEP_NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Number of steps a checkpoint directory's name stands for."""
    return int(path.name.removeprefix("step-"))


def to_delete(steps: Iterable[int], keep_last: int, keep_every: int | None) -> list[int]:
    """Which checkpoints retention removes: all but the newest `keep_last` and multiples of `keep_every`."""
    older = sorted(steps)[:-keep_last]
    return [step for step in older if not (keep_every and step % keep_every == 0)]


def read_checkpoint_manifest(path: Path) -> CheckpointManifest:
    """MANIFEST.json of a checkpoint; ValueError or OSError if there is none that makes sense."""
    return CheckpointManifest.model_validate_json((path / MANIFEST_NAME).read_text(encoding="utf-8"))


def describe_file(path: Path) -> CheckpointFile:
    """What the manifest says of a file that was just written, once it is on disk."""
    sync_file(path)
    return CheckpointFile(bytes=path.stat().st_size, sha256=sha256_file(path))


def find_damage(path: Path, *, hashes: bool = True) -> Damage | None:
    """Compare every file of a checkpoint with its manifest; without `hashes` only that it is there, whole."""
    try:
        manifest = read_checkpoint_manifest(path)
    except FileNotFoundError:
        return Damage(path, [f"{MANIFEST_NAME} is missing"])
    except (OSError, ValidationError, UnicodeDecodeError):
        return Damage(path, [f"{MANIFEST_NAME} is not readable"])
    reasons = [] if manifest.step == step_of(path) else [f"{MANIFEST_NAME} is that of step {manifest.step}"]
    for name, expected in manifest.files.items():
        if reason := _file_damage(path / name, expected, hashes):
            reasons.append(f"{name} {reason}")
    return Damage(path, reasons) if reasons else None


def _file_damage(file: Path, expected: CheckpointFile, hashes: bool) -> str | None:
    for pause in _RETRY_SECONDS:  # a network file system may stumble
        if (damage := _look_for_damage(file, expected, hashes)) is None or "cannot be read" not in damage:
            return damage
        time.sleep(pause)
    return _look_for_damage(file, expected, hashes)


def _look_for_damage(file: Path, expected: CheckpointFile, hashes: bool) -> str | None:
    try:
        if not file.is_file():
            return "is missing"
        if file.stat().st_size != expected.bytes:
            return f"has {file.stat().st_size} bytes instead of {expected.bytes}"
        if hashes and sha256_file(file) != expected.sha256:
            return "has other content than was written (sha256 differs)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def newest_usable(directory: Path) -> tuple[Path | None, list[Damage]]:
    """The newest checkpoint that is whole, and the damaged ones that are newer than it.

    Raises:
        CheckpointError: there are checkpoints, but none is whole.
    """
    damaged: list[Damage] = []
    for path in list_checkpoints(directory):
        damage = find_damage(path)
        if damage is None:
            return path, damaged
        damaged.append(damage)
    if damaged:
        listed = "\n".join(f"  - {damage}" for damage in damaged)
        raise CheckpointError(
            f"no checkpoint in {directory} is usable, and nothing was changed:\n{listed}\n"
            "restore the named files from a backup, or train into another run_dir"
        )
    return None, []


def delete_checkpoint(directory: Path, step: int) -> None:
    """Remove a published checkpoint that retention no longer wants, so that never half of it is seen."""
    hidden = directory / f"{_DELETED_PREFIX}{checkpoint_name(step)}"
    try:
        (directory / checkpoint_name(step)).rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        logger.warning("could not delete the old checkpoint of step %d: %s", step, error)


def delete_leftovers(directory: Path) -> None:
    """Remove what killed saves and deletions left half done; nobody may be saving."""
    for prefix in (PARTIAL_PREFIX, _DELETED_PREFIX):
        for path in directory.glob(f"{prefix}step-*"):
            shutil.rmtree(path, ignore_errors=True)


def set_aside(damage: Damage) -> Path:
    """Rename a damaged checkpoint so that its step can be published again; nothing is deleted."""
    for number in range(1, 1000):
        aside = damage.path.with_name(f"damaged-{number}-{damage.path.name}")
        if not aside.exists():
            return damage.path.rename(aside)
    raise CheckpointError(f"{damage.path}: 999 damaged copies already; remove them")
