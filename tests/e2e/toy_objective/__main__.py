"""`pipeline` with one more objective: python -m tests.e2e.toy_objective PROCESSES COMMAND ...

The launcher starts its copies of this module's command line, so that each of them knows it, too.
"""

import os
import sys

from pipeline.__main__ import main
from pipeline.objectives import OBJECTIVES
from pipeline.processes import launch

if __name__ == "__main__":
    _, processes, *arguments = sys.argv
    OBJECTIVES["toy"] = "tests.e2e.toy_objective"
    if processes == "1" or "RANK" in os.environ:
        sys.exit(main(arguments))
    sys.exit(launch.launch([sys.executable, "-m", "tests.e2e.toy_objective", *sys.argv[1:]], int(processes)))
