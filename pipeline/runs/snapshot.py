"""A snapshot: the code and the recipe of a run, copied to where no later edit reaches them.

    RUN/snapshots/0123456789ab/
        recipe.yaml                     overrides applied, paths absolute
        pipeline/ data_prep/ ds_configs/
        slurm/ pyproject.toml           where the code runs from a source tree

A job may wait for days and start many times; all its starts run what was submitted:
`cd RUN/snapshots/0123456789ab && python -m pipeline train recipe.yaml`. Python looks for packages in the
current directory first, so that an installed copy does not get in the way.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import yaml

from data_prep.files import partial_of
from pipeline.config.deepspeed_json import TEMPLATES_DIR
from pipeline.config.load import find_recipe, parse_recipe, raise_problems, read_settings
from pipeline.errors import CheckpointError

SOURCE_ROOT = Path(__file__).parents[2]
RECIPE_NAME = "recipe.yaml"
_COPIED = ("pipeline", "data_prep", "ds_configs", "slurm", "pyproject.toml")
_PATHS = (("run_dir",), ("corpus",), ("model", "checkpoint"))
_HASH_DIGITS = 12


def take_snapshot(recipe_name: str, overrides: list[str], source: Path = SOURCE_ROOT) -> Path:
    """Copy the code in `source` and a recipe into the run_dir; the same content gives the same place.

    The recipe is checked key by key, but not against the machine or the corpus: the login node may have
    neither a GPU nor the corpus.

    Returns:
        The snapshot's directory, absolute.

    Raises:
        RecipeError: the recipe has unknown keys or impossible values.
        CheckpointError: a snapshot of this content is there, but was changed since.
    """
    settings = read_settings(find_recipe(recipe_name), overrides)
    recipe, problems = parse_recipe(settings)
    raise_problems(recipe_name, problems)
    assert recipe is not None
    _make_paths_absolute(settings)
    files = _read_code(source)
    files[RECIPE_NAME] = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()
    snapshot = Path(settings["run_dir"]) / "snapshots" / _content_hash(files)
    if snapshot.is_dir():
        _check_unchanged(snapshot, files)
    else:
        _write(snapshot, files)
    return snapshot


def _make_paths_absolute(settings: dict[str, Any]) -> None:
    """The snapshot is run from its own directory; the recipe's paths were meant from the current one."""
    for *parents, last in _PATHS:
        section = settings
        for parent in parents:
            section = section.get(parent) or {}
        if section.get(last) is not None:
            section[last] = str(Path(section[last]).absolute())
    for phase in settings.get("curriculum") or []:
        if phase.get("corpus") is not None:
            phase["corpus"] = str(Path(phase["corpus"]).absolute())
    train = settings.get("train") or {}
    name = train.get("deepspeed")
    if name is not None and not (TEMPLATES_DIR / f"{name}.json").is_file():
        train["deepspeed"] = str(Path(name).absolute())


def _read_code(root: Path) -> dict[str, bytes]:
    """Content of the files that are copied, by their path from `root`, in a fixed order."""
    found = {}
    for name in _COPIED:
        path = root / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            parts = file.relative_to(root).parts
            if file.is_file() and "__pycache__" not in parts and not file.name.startswith("."):
                found["/".join(parts)] = file.read_bytes()
    return found


def _content_hash(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:_HASH_DIGITS]


def _check_unchanged(snapshot: Path, files: dict[str, bytes]) -> None:
    found = _read_code(snapshot) | {RECIPE_NAME: (snapshot / RECIPE_NAME).read_bytes()}
    changed = sorted(name for name in found.keys() | files.keys() if found.get(name) != files.get(name))
    if changed:
        raise CheckpointError(
            f"{snapshot} was changed since it was taken ({', '.join(changed)}); "
            "put that back, or remove the directory if no job runs from it"
        )


def _write(snapshot: Path, files: dict[str, bytes]) -> None:
    """Under another name first: a directory with the final name is complete."""
    partial = partial_of(snapshot)
    try:
        for name, content in files.items():
            file = partial / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        partial.rename(snapshot)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not snapshot.is_dir():  # or else another job took the same one at this moment
            raise CheckpointError(f"cannot write the snapshot {snapshot}: {error}") from error
