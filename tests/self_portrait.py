"""What a process sees of itself, as JSON: python -m tests.self_portrait [--rank] ARGUMENTS.

With --rank it is what a process sees that this one starts as a launcher would.
"""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.__main__ import _set_up_logging


def describe() -> dict[str, Any]:
    """Everything of which a forked process might have its parent's instead of its own."""
    _set_up_logging()
    import deepspeed

    specification = sys.modules["__main__"].__spec__
    return {
        "arguments": sys.argv,
        "main module": specification and specification.name,
        "directory": str(Path.cwd()),
        "path": sys.path,
        "environment": {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"},
        "input": str(Path("/proc/self/fd/0").readlink()),
        "open files": sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()),
        "handlers": {number.name: str(signal.getsignal(number)) for number in signal.Signals},
        "blocked signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "log": [logging.root.level, *(str(handler) for handler in logging.root.handlers)],
        "threads": [threading.active_count(), torch.get_num_threads(), torch.get_num_interop_threads()],
        "seeds": [random.random(), np.random.random(), torch.initial_seed()],
        "precision": str(torch.get_default_dtype()),
        "process group": torch.distributed.is_initialized(),
        "accelerator": deepspeed.accelerator.get_accelerator().device_name(),
    }


def describe_rank() -> int:
    """Start a process after this one has changed much of what it could inherit."""
    _set_up_logging()
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    command = [sys.executable, "-m", "tests.self_portrait", *sys.argv[2:]]
    return subprocess.Popen(command, env={**os.environ, "RANK": "1"}, start_new_session=True).wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        sys.exit(describe_rank())
    print(json.dumps(describe()))
    sys.exit(3)
