"""The resident set of a process that has imported all that training imports, and has yet to train."""

import importlib

from pipeline.accounting.resident import resident_bytes
from pipeline.encoder.families import modeling_module

# What is imported at some place of the way to the first step, beside what `pipeline.training` names itself.
_IMPORTED_ON_THE_WAY = (
    "pipeline.training.train",
    "pandas",  # which Arrow imports when it meets a table
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # with torch's compiler, whatever the optimizer
    "torch.utils.data",
    "torch.utils.tensorboard",
)
# Sockets, threads and stacks of the process group, code pages of the kernels: measured, over the imports.
_STARTED_BYTES = 40 << 20


def resident_base(family: str) -> int:
    """Bytes, measured in this process, which imports them all.

    Args:
        family: of the encoder.
    """
    for name in (*_IMPORTED_ON_THE_WAY, modeling_module(family)):
        importlib.import_module(name)
    return resident_bytes()["VmRSS"] + _STARTED_BYTES
