from types import SimpleNamespace

import pytest
import torch

from pipeline.checkpoints.loading import _own_steps, needs_conversion
from pipeline.checkpoints.manifest import CheckpointManifest
from pipeline.errors import UsageError


def written(world_size: int, stage: int) -> CheckpointManifest:
    return CheckpointManifest(step=3, world_size=world_size, zero_stage=stage, files={})


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_pieces_fit_only_the_number_of_processes_they_were_cut_for(stage: int) -> None:
    assert not needs_conversion(written(4, stage), 4, stage)
    assert needs_conversion(written(4, stage), 2, stage)


def test_stage_0_has_no_pieces() -> None:
    assert not needs_conversion(written(4, 0), 2, 0)


def test_stages_1_to_3_turn_into_each_other() -> None:
    assert all(needs_conversion(written(2, a), 2, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b)


@pytest.mark.parametrize(("before", "after"), [(0, 1), (3, 0)])
def test_stage_0_turns_into_no_other(before: int, after: int) -> None:
    with pytest.raises(UsageError, match=rf"stage {before} and cannot go on at stage {after}"):
        needs_conversion(written(2, before), 2, after)


@pytest.mark.parametrize(("fused", "device"), [(True, "meta"), (False, "cpu")])
def test_each_state_counts_its_own_steps_where_its_optimizer_does(fused: bool, device: str) -> None:
    """A fused kernel takes them from the device of the weights."""
    step = torch.tensor(3.0)
    states = {torch.empty(2, device="meta"): {"step": step} for _ in range(2)}
    _own_steps(SimpleNamespace(defaults={"fused": fused}, state=states))  # type: ignore[arg-type]
    first, second = (state["step"] for state in states.values())
    assert first is not second
    assert first is not step
    assert {first.device.type, second.device.type} == {device}
    assert fused or first == second == 3.0
