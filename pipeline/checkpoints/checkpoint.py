"""Checkpoints that are all there or not there.

    checkpoints/step-00001000/        DeepSpeed's files, one state-rank-*.pt per process, MANIFEST.json
    checkpoints/latest                name of the newest published one

DeepSpeed alone would let rank 0 write `latest` after its own files, without waiting for the others, and
would start from scratch with a warning when nothing can be loaded. So a checkpoint is written under a
hidden name, hashed by all processes together, listed in MANIFEST.json, renamed, and only then named in
`latest`; and it is loaded only after every file has proved to be what MANIFEST.json says.
"""

import logging
import random
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from data_prep.files import sha256_file, sync_file, write_atomically
from pipeline.errors import CheckpointError
from pipeline.processes.cluster import Cluster, ToldElsewhereError

MANIFEST_NAME = "MANIFEST.json"
LATEST_NAME = "latest"
logger = logging.getLogger(__name__)
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


def find_damage(path: Path) -> Damage | None:
    """Compare every file of a checkpoint with its manifest."""
    try:
        manifest = read_checkpoint_manifest(path)
    except FileNotFoundError:
        return Damage(path, [f"{MANIFEST_NAME} is missing"])
    except (OSError, ValidationError, UnicodeDecodeError):
        return Damage(path, [f"{MANIFEST_NAME} is not readable"])
    reasons = [] if manifest.step == step_of(path) else [f"{MANIFEST_NAME} is that of step {manifest.step}"]
    for name, expected in manifest.files.items():
        if reason := _file_damage(path / name, expected):
            reasons.append(f"{name} {reason}")
    return Damage(path, reasons) if reasons else None


def _file_damage(file: Path, expected: CheckpointFile) -> str | None:
    try:
        if not file.is_file():
            return "is missing"
        if file.stat().st_size != expected.bytes:
            return f"has {file.stat().st_size} bytes instead of {expected.bytes}"
        if sha256_file(file) != expected.sha256:
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
    hidden = directory / f".deleted-{checkpoint_name(step)}"
    try:
        (directory / checkpoint_name(step)).rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        logger.warning("could not delete the old checkpoint of step %d: %s", step, error)


def set_aside(damage: Damage) -> Path:
    """Rename a damaged checkpoint so that its step can be published again; nothing is deleted."""
    for number in range(1, 1000):
        aside = damage.path.with_name(f"damaged-{number}-{damage.path.name}")
        if not aside.exists():
            return damage.path.rename(aside)
    raise CheckpointError(f"{damage.path}: 999 damaged copies already; remove them")


def save_checkpoint(
    cluster: Cluster, engine: Any, directory: Path, step: int, zero_stage: int, state: dict[str, Any]
) -> Path:
    """Write, hash, agree, publish. Every process must call this.

    Args:
        cluster: the processes.
        engine: the DeepSpeed engine.
        directory: the run's checkpoints/.
        step: optimizer steps taken.
        zero_stage: recorded, because another stage cannot load the files.
        state: this process's own state, kept in its state-rank file.

    Raises:
        CheckpointError: if any process could not write; nothing is published then. The main process's has
            the message, the others' (a ToldElsewhereError) ends them with the same code.
    """
    partial = directory / f".partial-{checkpoint_name(step)}"
    cluster.on_main(lambda: _clear(partial))
    problem = _write_files(engine, partial, cluster.rank, state)
    _raise_together(cluster, problem)
    # One process lists the files: on a network file system the others may not see them all yet.
    names = cluster.on_main(lambda: _list_files(partial))
    files, problem = _hash_share(partial, names[cluster.rank :: cluster.world_size])
    _raise_together(cluster, problem)
    manifest = CheckpointManifest(
        step=step,
        world_size=cluster.world_size,
        zero_stage=zero_stage,
        files=dict(sorted(item for share in cluster.gather(files) for item in share.items())),
    )
    return cluster.on_main(lambda: _publish(directory, partial, manifest))


def load_checkpoint(cluster: Cluster, engine: Any, path: Path) -> dict[str, Any]:
    """Load a checkpoint that `newest_usable` chose into the engine.

    Returns:
        The state this process gave to `save_checkpoint`.

    Raises:
        CheckpointError: DeepSpeed loaded nothing, or not the step the directory's name says.
    """
    loaded, _ = engine.load_checkpoint(str(path.parent), tag=path.name)
    if loaded is None or engine.global_steps != step_of(path):
        raise CheckpointError(f"{path}: DeepSpeed restored step {engine.global_steps}, not {step_of(path)}")
    return torch.load(path / _state_name(cluster.rank), weights_only=False)


def random_state() -> dict[str, Any]:
    """State of every random generator of this process."""
    on_cuda = torch.cuda.is_available()
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if on_cuda else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Inverse of `random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


def _state_name(rank: int) -> str:
    return f"state-rank-{rank:05d}.pt"


def _clear(partial: Path) -> None:
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {partial}: {error}") from error


def _write_files(engine: Any, partial: Path, rank: int, state: dict[str, Any]) -> str | None:
    """Have DeepSpeed write its files; returns what went wrong on this process."""
    failures: list[Exception] = []

    def noting(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return write(*args, **kwargs)
            except (OSError, RuntimeError) as error:  # torch.save raises both on a full disk
                failures.append(error)

        return call

    # save_checkpoint ends in a barrier. A process that left it early with an exception would keep the
    # others waiting there, so failures are noted, and told once all processes are through.
    writer = engine.checkpoint_engine
    with (
        mock.patch.object(writer, "save", noting(writer.save)),
        mock.patch.object(writer, "makedirs", noting(writer.makedirs)),
        mock.patch.object(engine, "_copy_recovery_script", return_value=None),
    ):
        engine.save_checkpoint(str(partial.parent), tag=partial.name, save_latest=False)
    noting(torch.save)(state, partial / _state_name(rank))
    return f"rank {rank} could not write the checkpoint {partial}: {failures[0]}" if failures else None


def _raise_together(cluster: Cluster, problem: str | None) -> None:
    if problems := [p for p in cluster.gather(problem) if p is not None]:
        if cluster.is_main:
            raise CheckpointError("\n".join(problems))
        raise ToldElsewhereError(CheckpointError.exit_code)


def _list_files(partial: Path) -> list[str]:
    return sorted(str(file.relative_to(partial)) for file in partial.rglob("*") if file.is_file())


def _hash_share(partial: Path, names: list[str]) -> tuple[dict[str, CheckpointFile], str | None]:
    """Sync and hash some of the files; the second value says what went wrong."""
    files = {}
    try:
        for name in names:
            path = partial / name
            sync_file(path)
            files[name] = CheckpointFile(bytes=path.stat().st_size, sha256=sha256_file(path))
    except OSError as error:
        return {}, f"cannot read back the checkpoint {partial}: {error}"
    return files, None


def _publish(directory: Path, partial: Path, manifest: CheckpointManifest) -> Path:
    final = directory / checkpoint_name(manifest.step)
    try:
        write_atomically(partial / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")
        sync_file(partial)
        partial.rename(final)  # fails, rather than replaces, if the step was published before
        sync_file(directory)
        write_atomically(directory / LATEST_NAME, final.name + "\n")
    except OSError as error:
        raise CheckpointError(f"cannot publish the checkpoint {final}: {error}") from error
    return final
