"""Results on disk: evaluation/TASK.json holds every evaluation of an encoder on a task.

    {"task": "blimp",
     "evaluations": [{"of": {...}, "units": {"adjunct_island": {...}}, "numbers": {...}, "machine": {...}}]}

"of" says what was evaluated: the encoder, the data by content, the settings. An evaluation that was cut short
has fewer units and no numbers; the same command goes on with it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from data_prep.files import sha256_file, write_json_atomically
from pipeline.accounting.metrics import finite
from pipeline.errors import CheckpointError
from pipeline.evaluation.task import Measured, Summary
from pipeline.runs.run_dir import describe_machine


class Results:
    """One evaluation in its file, and the others beside it."""

    def __init__(self, path: Path, task: str, of: dict[str, Any]) -> None:
        """Open the file and look for an evaluation of the same thing; a CheckpointError if it is damaged."""
        self.path, self._task = path, task
        self._others = [entry for entry in read_evaluations(path) if entry["of"] != of]
        same = [entry for entry in read_evaluations(path) if entry["of"] == of]
        self._entry: dict[str, Any] = same[-1] if same else {"of": of, "units": {}, "numbers": None}

    @property
    def units(self) -> dict[str, Measured]:
        """Results of the units measured so far."""
        return self._entry["units"]

    def add(self, unit: str, measured: Measured) -> None:
        """Keep a unit's result."""
        self._entry["units"][unit] = finite(measured)
        self._write()

    def finish(self, summary: Summary) -> None:
        """Keep what all units come to."""
        self._entry |= {"numbers": finite(summary.numbers), "machine": describe_machine()}
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The one being written is the last.
        write_json_atomically(self.path, {"task": self._task, "evaluations": [*self._others, self._entry]})


def read_evaluations(path: Path) -> list[dict[str, Any]]:
    """The evaluations in a results file, the newest last; none if there is no file."""
    if not path.is_file():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))["evaluations"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); move it away, and evaluate again what it held"
        ) from error


def content_sha256(path: Path) -> str:
    """Hash of a file, or of all files in a directory with their names."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    named = "".join(f"{file.relative_to(path)} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256(named.encode()).hexdigest()
