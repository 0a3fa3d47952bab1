"""The `evaluate` command: a task on an encoder, unit by unit, into a file and a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.errors import UsageError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.results import Results, content_sha256
from pipeline.evaluation.table import render_table
from pipeline.evaluation.task import Settings, Summary, Task, chosen_units
from pipeline.evaluation.tasks import load_task
from pipeline.processes.cluster import Cluster


def evaluate(
    path: str,
    task_name: str,
    given: Mapping[str, Any],
    out: str | None = None,
    corpora: Sequence[str] = (),
) -> Summary:
    """Evaluate a run's newest good checkpoint, or a Hugging Face directory; print a table and write a file.

    Units already in the file, of the same encoder, data and settings, are not measured again.

    Args:
        path: run or model directory.
        task_name: of TASKS.
        given: settings that the user asks for.
        out: directory for the results; default: PATH/evaluation.
        corpora: where the user says that the run's corpora are.
    """
    task = load_task(task_name)
    settings = resolve_settings(task_name, task, given)
    encoder = Encoder.open(path, Cluster.single().device, corpora)
    evaluation = task.begin(encoder, settings)
    units = chosen_units(evaluation.units, settings.only)
    of = {**encoder.identity(), **_identity(settings)}
    data = {name: content_sha256(files) for name, files in task.sources(settings).items()}
    results = Results(Path(out or Path(path) / "evaluation") / f"{task_name}.json", task_name, of, data)
    missing = [unit for unit in units if unit not in results.units]
    progress = tqdm(missing, unit="part", disable=len(missing) < 2)
    for unit in progress:
        progress.set_postfix_str(unit)
        if unit not in results.units:  # by another process in the meantime
            results.add(unit, evaluation.measure(unit))
    # From what was kept, so that a resumed evaluation says the same.
    summary = evaluation.summarize({unit: results.units[unit] for unit in units})
    results.finish(units, summary)
    written = [results.path]
    if summary.draw is not None:
        written.append(results.path.with_suffix(".png"))
        summary.draw(written[-1])
    where = path if encoder.step is None else f"{path}, step {encoder.step}"
    print(f"{task_name} of {where}\n{render_table(summary)}\nwrote {' and '.join(map(str, written))}")
    return summary


def resolve_settings(name: str, task: Task, given: Mapping[str, Any]) -> Settings:
    """The task's settings; a UsageError for one it does not take, or data that is missing."""
    if foreign := [key for key in given if key not in task.takes()]:
        options = ", ".join(_option(key) for key in foreign)
        takes = ", ".join(_option(key) for key in task.takes()) or "no options"
        raise UsageError(f"{options}: task {name!r} does not take this; it takes {takes}")
    if task.data is not None:
        if given.get("data") is None:
            raise UsageError(f"task {name!r} needs --data: {task.data}")
        if not Path(given["data"]).exists():
            raise UsageError(f"--data {given['data']} does not exist; write the path of {task.data}")
    return Settings(**{**task.defaults, **given})


def _identity(settings: Settings) -> dict[str, Any]:
    """The settings, with the data's name in the place of its path."""
    identity = settings.given()
    for name in ("only", "seeds"):  # say which units are measured, not how
        identity.pop(name, None)
    if settings.data is not None:
        path = settings.data.absolute()
        identity["data"] = path.parent.name if path.is_file() else path.name
    return identity


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")
