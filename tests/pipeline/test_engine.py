from types import SimpleNamespace

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler

from pipeline.engine import can_scale_loss_less


def engine_with(scaler: object) -> SimpleNamespace:
    return SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=scaler))


@pytest.mark.parametrize(("scale", "expected"), [(2.0, True), (1.0, False)])
def test_a_dynamic_scale_can_go_down_to_its_smallest(scale: float, expected: bool) -> None:
    scaler = DynamicLossScaler(
        init_scale=scale,
        scale_window=10,
        min_scale=1.0,
        delayed_shift=1,
        consecutive_hysteresis=False,
        raise_error_at_min_scale=False,
        dtype=torch.float16,
    )
    assert can_scale_loss_less(engine_with(scaler)) is expected


def test_without_a_search_for_a_scale_there_is_no_smaller_one() -> None:
    assert not can_scale_loss_less(engine_with(LossScaler(scale=1)))
    assert not can_scale_loss_less(SimpleNamespace(optimizer=SimpleNamespace()))
