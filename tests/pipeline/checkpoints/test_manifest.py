"""Which checkpoint is whole, which is used, which is deleted. DeepSpeed's files are made up here."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.files import sha256_file
from pipeline.checkpoints.manifest import (
    MANIFEST_NAME,
    CheckpointFile,
    CheckpointManifest,
    checkpoint_name,
    find_damage,
    list_checkpoints,
    newest_usable,
    set_aside,
    step_of,
    to_delete,
)
from pipeline.errors import CheckpointError


def make_checkpoint(directory: Path, step: int) -> Path:
    """A whole checkpoint with made-up files."""
    path = directory / checkpoint_name(step)
    (path / "zero").mkdir(parents=True)
    for name, text in [("model.pt", f"weights {step}"), ("zero/rank-0.pt", "moments"), ("empty.pt", "")]:
        (path / name).write_text(text, encoding="utf-8")
    files = {
        str(file.relative_to(path)): CheckpointFile(bytes=file.stat().st_size, sha256=sha256_file(file))
        for file in path.rglob("*")
        if file.is_file()
    }
    manifest = CheckpointManifest(step=step, world_size=1, zero_stage=1, files=files)
    (path / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")
    return path


def flip_a_bit(path: Path) -> None:
    file = path / "model.pt"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)


def truncate(path: Path) -> None:
    file = path / "zero" / "rank-0.pt"
    file.write_bytes(file.read_bytes()[:-1])


def remove_file(path: Path) -> None:
    (path / "empty.pt").unlink()


def remove_manifest(path: Path) -> None:
    (path / MANIFEST_NAME).unlink()


def cut_manifest(path: Path) -> None:
    file = path / MANIFEST_NAME
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")


def garble_manifest(path: Path) -> None:
    (path / MANIFEST_NAME).write_bytes(b"\xff\xfe\x00")


DAMAGES = [
    (flip_a_bit, "model.pt has other content"),
    (truncate, "zero/rank-0.pt has 6 bytes instead of 7"),
    (remove_file, "empty.pt is missing"),
    (remove_manifest, "MANIFEST.json is missing"),
    (cut_manifest, "MANIFEST.json is not readable"),
    (garble_manifest, "MANIFEST.json is not readable"),
]
every_damage = pytest.mark.parametrize(
    ("damage", "reason"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES]
)


def everything_in(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# Damage


def test_whole_checkpoint_has_no_damage(tmp_path: Path) -> None:
    assert find_damage(make_checkpoint(tmp_path, 10)) is None


@every_damage
def test_damage_is_found_and_named(tmp_path: Path, damage, reason: str) -> None:
    path = make_checkpoint(tmp_path, 10)
    damage(path)

    found = find_damage(path)

    assert found is not None
    assert found.path == path
    assert len(found.reasons) == 1
    assert reason in found.reasons[0]


def test_all_damage_of_a_checkpoint_is_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 10)
    for damage in (flip_a_bit, truncate, remove_file):
        damage(path)

    assert len(find_damage(path).reasons) == 3


def test_manifest_of_another_step_is_damage(tmp_path: Path) -> None:
    """A directory copied or renamed by hand: its step is not what its name says."""
    path = make_checkpoint(tmp_path, 10).rename(tmp_path / checkpoint_name(20))

    assert find_damage(path) is not None


# Choice


def test_newest_whole_checkpoint_is_used(tmp_path: Path) -> None:
    for step in (5, 100_000_000, 99_999_999):
        make_checkpoint(tmp_path, step)

    chosen, damaged = newest_usable(tmp_path)

    assert chosen == tmp_path / "step-100000000"
    assert damaged == []


@every_damage
def test_damaged_newest_is_reported_and_the_one_before_is_used(tmp_path: Path, damage, reason: str) -> None:
    older, newest = make_checkpoint(tmp_path, 10), make_checkpoint(tmp_path, 20)
    damage(newest)

    chosen, damaged = newest_usable(tmp_path)

    assert chosen == older
    assert [found.path for found in damaged] == [newest]
    assert reason in str(damaged[0])


def test_older_damage_does_not_matter(tmp_path: Path) -> None:
    older, newest = make_checkpoint(tmp_path, 10), make_checkpoint(tmp_path, 20)
    flip_a_bit(older)

    assert newest_usable(tmp_path) == (newest, [])


def test_without_a_whole_checkpoint_all_are_named_and_nothing_changes(tmp_path: Path) -> None:
    flip_a_bit(make_checkpoint(tmp_path, 10))
    remove_manifest(make_checkpoint(tmp_path, 20))
    before = everything_in(tmp_path)

    with pytest.raises(CheckpointError) as caught:
        newest_usable(tmp_path)

    message = str(caught.value)
    assert "step-00000010: model.pt has other content" in message
    assert "step-00000020: MANIFEST.json is missing" in message
    assert "backup" in message
    assert caught.value.exit_code == 74
    assert everything_in(tmp_path) == before


def test_no_checkpoints_is_no_error(tmp_path: Path) -> None:
    assert newest_usable(tmp_path) == (None, [])
    assert newest_usable(tmp_path / "nowhere") == (None, [])


def test_only_published_checkpoints_are_listed(tmp_path: Path) -> None:
    for step in (30, 4):
        make_checkpoint(tmp_path, step)
    for name in (".partial-step-00000040", "damaged-1-step-00000050", "step-5", "step-00000060.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "latest").write_text("step-00000030\n", encoding="utf-8")

    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000030", "step-00000004"]


@given(st.integers(0, 10**12))
def test_name_and_step_are_inverse(step: int) -> None:
    assert step_of(Path("somewhere") / checkpoint_name(step)) == step


def test_setting_aside_deletes_nothing_and_never_collides(tmp_path: Path) -> None:
    kept = []
    for _ in range(3):
        path = make_checkpoint(tmp_path, 10)
        flip_a_bit(path)
        content = everything_in(path)
        aside = set_aside(find_damage(path))
        assert everything_in(aside) == content
        assert not path.exists()
        kept.append(aside)

    assert len(set(kept)) == 3
    assert list_checkpoints(tmp_path) == []


# Retention


@given(
    st.lists(st.integers(0, 500), unique=True, max_size=30),
    st.integers(2, 5),
    st.one_of(st.none(), st.integers(1, 50)),
)
def test_retention_keeps_the_newest_and_the_multiples(
    steps: list[int], keep_last: int, keep_every: int | None
) -> None:
    deleted = to_delete(steps, keep_last, keep_every)

    kept = set(steps) - set(deleted)
    newest = set(sorted(steps, reverse=True)[:keep_last])
    multiples = {step for step in steps if keep_every and step % keep_every == 0}
    assert set(deleted) <= set(steps)
    assert len(deleted) == len(set(deleted))
    assert kept == newest | multiples


def test_retention_is_stable(tmp_path: Path) -> None:
    """What is kept is kept again when nothing was added."""
    steps = list(range(0, 200, 7))

    kept = sorted(set(steps) - set(to_delete(steps, 3, 14)))

    assert to_delete(kept, 3, 14) == []


def test_a_checkpoint_may_be_moved(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "here", 10)

    moved = shutil.copytree(path, tmp_path / "there" / path.name)

    assert find_damage(moved) is None
