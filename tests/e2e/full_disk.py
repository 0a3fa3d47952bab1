"""Train with two processes of which one has a full disk: python -m tests.e2e.full_disk RANK RECIPE ...

The launcher starts its copies of this module's command line, so the fault is put into each of them.
"""

import os
import sys
from typing import Any

from pipeline.__main__ import main
from pipeline.processes import launch


def break_writes_of(rank: str) -> None:
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    def save(*_arguments: Any, **_settings: Any) -> None:
        raise OSError(28, "No space left on device")

    if os.environ["RANK"] == rank:
        TorchCheckpointEngine.save = save


if __name__ == "__main__":
    _, rank, *arguments = sys.argv
    if "RANK" in os.environ:
        break_writes_of(rank)
        sys.exit(main(["train", *arguments]))
    sys.exit(launch.launch([sys.executable, "-m", "tests.e2e.full_disk", *sys.argv[1:]], 2))
