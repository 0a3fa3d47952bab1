"""Which optimizer a resolved DeepSpeed configuration stands for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pipeline.config.deepspeed_json import zero_stage
from pipeline.optimizers.checked import CheckedAdamW, CheckedLamb
from pipeline.optimizers.lamb import Lamb

Groups = list[dict[str, Any]]


def optimizer_maker(config: dict[str, Any]) -> Callable[[Groups], torch.optim.Optimizer] | None:
    """What DeepSpeed calls with the parameter groups; None where it makes the optimizer itself."""
    kind = config["optimizer"]["type"]
    settings = {key: value for key, value in config["optimizer"]["params"].items() if key != "torch_adam"}
    if zero_stage(config) == 0:
        checked = {"AdamW": CheckedAdamW, "Lamb": CheckedLamb}[kind]
        return partial(checked, max_norm=config["gradient_clipping"], **settings)
    return partial(Lamb, **settings) if kind == "Lamb" else None
