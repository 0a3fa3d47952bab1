"""A short run of the benchmark that kills."""

import json
import sys

from tests.e2e.running import run_command


def test_nothing_is_lost():
    command = [sys.executable, "-m", "benchmarks.torture", "--kills", "4", "--seed", "3"]
    finished = run_command(command)
    assert finished.code == 0, finished.output
    result = json.loads(finished.output.splitlines()[-1])
    assert result["kills"] == 4
    assert (result["mismatches"], result["unusable"], result["lost_runs"]) == (0, 0, 0)
