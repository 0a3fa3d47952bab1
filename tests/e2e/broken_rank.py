"""Train with two processes of which one breaks: python -m tests.e2e.broken_rank FAULT RANK STEP RECIPE ...

RANK may be all. FAULT is full-disk (at any save, whatever STEP), no-compiler (from the beginning), hang or
bad-data (while it reads the rows of STEP), or kill (with SIGKILL, before it trains STEP). The launcher starts
its copies of this module's command line, so the fault is put into each of them.
"""

import os
import signal
import sys
import time
from typing import Any

from pipeline.__main__ import main
from pipeline.errors import DataError
from pipeline.processes import launch


def break_process(fault: str, step: int) -> None:
    if fault == "no-compiler":
        from torch._inductor import config

        config.cpp.cxx = (None, "/nonexistent/g++")  # what CXX sets, if it is set before torch is imported
        return
    if fault == "full-disk":
        from pipeline.checkpoints import saving

        def save(*_arguments: Any, **_settings: Any) -> None:
            raise OSError(28, "No space left on device")

        saving.torch.save = save
        return
    if fault == "kill":
        from pipeline.training.step import StepRunner

        run = StepRunner.run

        def killed(runner: StepRunner, number: int, *arguments: Any) -> Any:
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return run(runner, number, *arguments)

        StepRunner.run = killed
        return
    from pipeline.data.batches import StepBatches

    read = StepBatches.__getitem__

    def broken(batches: StepBatches, number: int) -> Any:
        if number == step and fault == "hang":
            time.sleep(10_000)
        if number == step:
            raise DataError("a shard is broken")
        return read(batches, number)

    StepBatches.__getitem__ = broken


if __name__ == "__main__":
    _, fault, rank, step, *arguments = sys.argv
    if "RANK" in os.environ:
        if rank in (os.environ["RANK"], "all"):
            break_process(fault, int(step))
        sys.exit(main(["train", *arguments]))
    sys.exit(launch.launch([sys.executable, "-m", "tests.e2e.broken_rank", *sys.argv[1:]], 2))
