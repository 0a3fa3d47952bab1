"""Checkpoints for another number of processes or another ZeRO stage.

ZeRO cuts optimizer states into one piece per process, and DeepSpeed loads them only as they were cut. Its
universal form has a file per parameter and state instead. A checkpoint is converted once, by the main process
while the others wait, into checkpoints/converted/, hashed and published like any checkpoint, and used again
as long as it is whole and its source is the same.
"""

import argparse
import contextlib
import io
import logging
import shutil
import time
from importlib import metadata
from pathlib import Path

import torch

from data_prep.files import sha256_file
from pipeline.checkpoints.manifest import (
    MANIFEST_NAME,
    describe_file,
    find_damage,
    list_checkpoints,
    read_checkpoint_manifest,
)
from pipeline.checkpoints.saving import publish_directory
from pipeline.errors import CheckpointError

logger = logging.getLogger(__name__)
CONVERTED_NAME = "converted"
CONVERTIBLE_STAGES = (1, 2, 3)


def convert(checkpoint: Path) -> Path:
    """The universal form of a whole checkpoint, made or found. Runs on the main process only.

    Raises:
        CheckpointError: it cannot be written, or DeepSpeed cannot convert it.
    """
    final = checkpoint.parent / CONVERTED_NAME / checkpoint.name
    source = sha256_file(checkpoint / MANIFEST_NAME)
    if _is_usable(final, source):
        logger.info("using %s, converted before", final)
        return final
    started = time.monotonic()
    logger.info("converting %s for another number of processes or ZeRO stage", checkpoint)
    partial = final.with_name(f".partial-{final.name}")
    try:
        for leftover in (final, partial):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        _convert_with_deepspeed(checkpoint, partial)
        found = sorted(path for path in partial.rglob("*") if path.is_file())
        files = {str(path.relative_to(partial)): describe_file(path) for path in found}
    except Exception as error:  # DeepSpeed raises many kinds, and the original is as good as before
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot convert {checkpoint} into {final} ({type(error).__name__}): {error}"
        ) from error
    old = read_checkpoint_manifest(checkpoint)
    publish_directory(partial, final, old.model_copy(update={"files": files, "converted_from": source}))
    logger.info("converted in %.1f s", time.monotonic() - started)
    return final


def delete_stale_conversions(checkpoints: Path) -> None:
    """Remove what was converted from checkpoints that are gone, and what a killed conversion left."""
    names = {path.name for path in list_checkpoints(checkpoints)}
    for path in (checkpoints / CONVERTED_NAME).glob("*"):
        if path.name not in names:
            shutil.rmtree(path, ignore_errors=True)
    for path in (checkpoints / CONVERTED_NAME).glob(".partial-*"):
        shutil.rmtree(path, ignore_errors=True)


def _is_usable(converted: Path, source: str) -> bool:
    if not converted.exists():
        return False
    if (damage := find_damage(converted)) is not None:
        logger.warning("converting again, what was converted before is damaged: %s", damage)
        return False
    return read_checkpoint_manifest(converted).converted_from == source


def _convert_with_deepspeed(checkpoint: Path, out: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    arguments = argparse.Namespace(
        input_folder=str(checkpoint),
        output_folder=str(out),
        num_extract_workers=1,  # more would fork a process that talks to others
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # what only models cut by other means than ZeRO have
    )
    told = io.StringIO()  # it prints and draws its progress
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        ds_to_universal.main(arguments)
    (out.parent / "latest_universal").unlink(missing_ok=True)  # its pointer; the checkpoint is named to it
    _serve_all_stages(out)


def _serve_all_stages(out: Path) -> None:
    """Add what stages 1 and 2 want of a conversion from stage 3, and the other way round."""
    # One file with all weights, or one per process; of either, loading a universal checkpoint takes counters.
    one, many = out / "mp_rank_00_model_states.pt", out / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    for have, lack in ((one, many), (many, one)):
        if not lack.exists():
            shutil.copy2(have, lack)
    # Adam's number of steps: once for all parameters, or beside each. Without it DeepSpeed counts from 0.
    path = out / "zero" / "optimizer_state.pt"
    states = torch.load(path, weights_only=False)
    parameters = sorted(file.parent for file in (out / "zero").rglob("exp_avg.pt"))
    if "optimizer_state_dict" in states:
        step = states["optimizer_state_dict"]["state"][0]["step"]
        shapes = _shapes_of(one)
        for directory in parameters:
            torch.save(step, directory / "step.pt")
            for file in (directory / f"{name}.pt" for name in ("fp32", "exp_avg", "exp_avg_sq")):
                flat = torch.load(file, weights_only=False)
                torch.save({"param": flat.view(shapes[directory.name])}, file)
        states["ds_version"] = metadata.version("deepspeed")
    else:
        step = torch.load(parameters[0] / "step.pt", weights_only=False)
        groups = states["param_groups"]
        states["optimizer_state_dict"] = {"state": {0: {"step": step}}, "param_groups": groups}
    torch.save(states, path)


def _shapes_of(model_states: Path) -> dict[str, torch.Size]:
    groups = torch.load(model_states, weights_only=False)["param_shapes"]
    return {name: shape for group in groups for name, shape in group.items()}
