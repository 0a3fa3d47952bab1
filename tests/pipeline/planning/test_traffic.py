import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.traffic import Volume, step_volume

GROUPS = ((200_001, 70_000, 999), (7, 1000))
PARAMETERS = sum(map(sum, GROUPS))


def test_stage_0_reduces_once_however_many_forward_passes() -> None:
    assert step_volume(GROUPS, 4, 0, 2, 1) == step_volume(GROUPS, 4, 0, 2, 8)
    assert step_volume(GROUPS, 4, 0, 2, 1) == Volume(all_reduce=4 * PARAMETERS)


def test_stages_1_and_2_gather_padded_groups() -> None:
    one, two = (step_volume(GROUPS, 2, stage, 4, 3) for stage in (1, 2))

    padded = 271_000 + 1008  # to multiples of 8
    assert one == Volume(all_reduce=2 * PARAMETERS, all_gather=2 * padded)
    assert two == Volume(all_reduce=3 * 2 * PARAMETERS, all_gather=2 * padded)


def test_stage_3_divides_every_parameter_and_gathers_large_ones_twice() -> None:
    small = 70_000 + 1000 + 8 + 1000
    assert step_volume(GROUPS, 4, 3, 2, 3, persistent=100_000) == Volume(
        reduce_scatter=3 * 4 * (200_002 + small), all_gather=4 * (2 * 3 * 200_002 + small)
    )


@given(st.integers(0, 3), st.integers(1, 64), st.integers(1, 8))
def test_a_ring_sends_less_than_twice_the_payload(stage: int, processes: int, micro_steps: int) -> None:
    volume = step_volume(GROUPS, 4, stage, processes, micro_steps)

    assert 0 <= volume.sent(processes) < 2 * volume.payload
    assert volume.sent(1) == 0


def test_all_reduce_is_a_reduce_scatter_and_an_all_gather() -> None:
    both = Volume(reduce_scatter=1000, all_gather=1000)
    assert Volume(all_reduce=1000).sent(4) == pytest.approx(both.sent(4)) == 1500
