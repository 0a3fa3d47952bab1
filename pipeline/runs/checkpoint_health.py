"""How a run's checkpoints look to somebody who only looks: nothing is loaded, renamed or waited for."""

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from tqdm import tqdm

from pipeline.checkpoints.manifest import (
    MANIFEST_NAME,
    CheckpointManifest,
    find_damage,
    list_checkpoints,
    read_checkpoint_manifest,
    step_of,
)


@dataclass(frozen=True, kw_only=True)
class CheckpointHealth:
    """A published checkpoint.

    Attributes:
        step: steps it stands for.
        path: its directory.
        time: when it was published, ISO 8601.
        age_seconds: since then.
        bytes: of all its files, as its manifest says; null without one.
        world_size: number of processes that wrote it; null without a manifest.
        zero_stage: their ZeRO stage; null without a manifest.
        damage: what is wrong with it; empty if nothing was found.
    """

    step: int
    path: str
    time: str
    age_seconds: float
    bytes: int | None
    world_size: int | None
    zero_stage: int | None
    damage: list[str]


def look_at_checkpoints(directory: Path, verify: bool, now: datetime) -> list[CheckpointHealth]:
    """All published checkpoints, newest first.

    Args:
        directory: the run's checkpoints/.
        verify: compare the hash of every file, with a progress bar; otherwise only that it is there and has
            its size.
        now: what ages are counted from.
    """
    paths = list_checkpoints(directory)
    sizes = {path: _size_of(_manifest_of(path)) or 0 for path in paths}
    found = []
    with tqdm(
        total=sum(sizes.values()), desc="verify", unit="B", unit_scale=True, leave=False, disable=not verify
    ) as bar:
        for path in paths:
            bar.set_postfix_str(path.name)
            health = _look_at(path, verify, now)
            if health is not None:
                found.append(health)
            bar.update(sizes[path])
    return found


def _look_at(path: Path, verify: bool, now: datetime) -> CheckpointHealth | None:
    """One checkpoint; None if retention has just deleted it."""
    manifest = _manifest_of(path)
    damage = find_damage(path, hashes=verify)
    try:
        published = _time_of(path)
    except OSError:
        return None
    return CheckpointHealth(
        step=step_of(path),
        path=str(path),
        time=published.isoformat(timespec="seconds"),
        age_seconds=round((now - published).total_seconds(), 1),
        bytes=_size_of(manifest),
        world_size=manifest.world_size if manifest else None,
        zero_stage=manifest.zero_stage if manifest else None,
        damage=[] if damage is None else damage.reasons,
    )


def _manifest_of(path: Path) -> CheckpointManifest | None:
    try:
        return read_checkpoint_manifest(path)
    except (OSError, ValueError):
        return None


def _size_of(manifest: CheckpointManifest | None) -> int | None:
    return None if manifest is None else sum(file.bytes for file in manifest.files.values())


def _time_of(path: Path) -> datetime:
    """When the checkpoint was published: its manifest is written last."""
    manifest = path / MANIFEST_NAME
    seconds = (manifest if manifest.is_file() else path).stat().st_mtime
    return datetime.fromtimestamp(seconds, timezone.utc)
