"""Results on disk: evaluation/TASK.json holds every evaluation of an encoder on a task.

    {"task": "glue",
     "evaluations": [{"of": {...},
                      "units": {"RTE/seed-0": {...}, "RTE/seed-1": {...}},
                      "machines": {"RTE/seed-0": {...}, ...},
                      "summaries": [{"units": ["RTE/seed-0"], "numbers": {...}},
                                    {"units": ["RTE/seed-0", "RTE/seed-1"], "numbers": {...}}]}]}

"of" says what was evaluated: the encoder, the data by content, the settings. "machines" says where each unit
was measured. There is a summary for each set of units that was asked for, with --only or other --seeds, the
newest last; `newest_numbers` reads that one. An evaluation that was cut short has fewer units and no summary
of them; the same command goes on with it.

"of" has a hash of each part of the data that was read. An evaluation of other parts belongs to the same entry
if the parts they share are the same, so that a further data set beside those measured changes nothing.

Every write takes in what other evaluations have written meanwhile.
"""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from data_prep.files import sha256_file, write_json_atomically
from pipeline.accounting.metrics import finite
from pipeline.errors import CheckpointError
from pipeline.evaluation.task import Measured, Summary
from pipeline.runs.run_dir import describe_machine

_DATA = "data_sha256"


class Results:
    """One evaluation in its file, and the others beside it."""

    def __init__(self, path: Path, task: str, of: Mapping[str, Any], data: Mapping[str, str]) -> None:
        """Open the file and look for an evaluation of the same thing; a CheckpointError if it is damaged.

        Args:
            path: of the file.
            task: its name.
            of: encoder and settings.
            data: hash of each part of the data that is read; none for a task without data.
        """
        self.path, self._task = path, task
        self._entry: dict[str, Any] = {
            "of": {**of, **({_DATA: dict(data)} if data else {})},
            "units": {},
            "machines": {},
            "summaries": [],
        }
        self._take_in(read_evaluations(path))

    @property
    def units(self) -> dict[str, Measured]:
        """Results of the units measured so far, by this evaluation or others of the same thing."""
        return self._entry["units"]

    @cached_property
    def _machine(self) -> dict[str, Any]:
        return describe_machine()

    def add(self, unit: str, measured: Measured) -> None:
        """Keep a unit's result."""
        with self._writing() as entry:
            entry["units"][unit] = finite(measured)
            entry["machines"][unit] = self._machine

    def finish(self, units: Sequence[str], summary: Summary) -> None:
        """Keep what these units come to."""
        with self._writing() as entry:
            others = [one for one in entry["summaries"] if set(one["units"]) != set(units)]
            newest = {"units": list(units), "numbers": finite(summary.numbers)}
            entry["summaries"] = [*others, newest]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[dict[str, Any]]:
        """The entry to change, with what is in the file by now; written as the last one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path):
            others = self._take_in(read_evaluations(self.path))
            yield self._entry
            write_json_atomically(self.path, {"task": self._task, "evaluations": [*others, self._entry]})

    def _take_in(self, evaluations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add what the file has of this evaluation; returns the others in it."""
        same = next((one for one in reversed(evaluations) if _agree(one["of"], self._entry["of"])), None)
        if same is None:
            return list(evaluations)
        of = {**same["of"], **self._entry["of"]}
        if _DATA in of:
            of[_DATA] = {**same["of"][_DATA], **of[_DATA]}
        self._entry = {
            "of": of,
            "units": {**self._entry["units"], **same["units"]},
            "machines": {**self._entry["machines"], **same["machines"]},
            "summaries": same["summaries"],
        }
        return [one for one in evaluations if one is not same]


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


def newest_numbers(entry: Mapping[str, Any]) -> dict[str, float | None] | None:
    """The figures an evaluation came to last, of the units asked for then; None if it never got so far."""
    summaries = entry.get("summaries")
    return summaries[-1]["numbers"] if summaries else None


def content_sha256(files: Sequence[Path]) -> str:
    """Hash of some files with their names, wherever they lie."""
    named = sorted(f"{file.name} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256("".join(named).encode()).hexdigest()


def _agree(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two evaluations are of the same thing: all is equal but data that only one of them read."""
    old_data, new_data = old.get(_DATA, {}), new.get(_DATA, {})
    shared = old_data.keys() & new_data.keys()
    rest = [{key: value for key, value in one.items() if key != _DATA} for one in (old, new)]
    return rest[0] == rest[1] and all(old_data[name] == new_data[name] for name in shared)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process writes this file; where the file system has no locks, go on without."""
    with path.with_name(f".{path.name}.lock").open("a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
