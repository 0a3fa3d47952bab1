"""`--compare-by`: the words of a command line become a Measure, checked before anything is trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.config.load import parse_value
from pipeline.errors import UsageError
from pipeline.evaluation.task import Settings
from pipeline.evaluation.tasks import FORMER_NAMES, TASKS, load_task
from pipeline.study.measure import HELD_OUT_LOSS, At, Better, Measure, did_you_mean

_OWN_KEYS = ("task", "better", "unit", "at")
_SHARE, _CORRELATION = "share", "correlation coefficient"
# What figures are called, here and in the tasks: which direction is better, and the unit.
_KNOWN: dict[str, tuple[Better, str]] = {
    "loss": ("lower", HELD_OUT_LOSS.unit),
    "perplexity": ("lower", "e to the loss per predicted token"),
    "seconds": ("lower", "s"),
    "fpr_at_95_tpr": ("lower", _SHARE),
    **dict.fromkeys(("accuracy", "f1", "macro_f1", "precision", "recall"), ("higher", _SHARE)),
    **dict.fromkeys(("auroc", "aupr"), ("higher", "area, 1 at most")),
    **dict.fromkeys(("matthews", "pearson", "spearman"), ("higher", _CORRELATION)),
    "average": ("higher", "mean of the data sets' scores"),
}


def parse_measure(words: Sequence[str]) -> Measure:
    """What `--compare-by NAME [KEY=VALUE ...]` means; a UsageError says what is wrong with it."""
    figure, *assignments = words
    if "=" in figure:
        raise UsageError(
            f"--compare-by {figure}: write the name of a figure first, for example --compare-by loss or "
            "--compare-by accuracy task=blimp data=PATH"
        )
    values: dict[str, Any] = {}
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UsageError(f"--compare-by {text}: write KEY=VALUE, for example better=higher")
        try:
            values[key] = parse_value(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--compare-by {text}: cannot be read as YAML; quote it") from error
    task = values.pop("task", None)
    own = {key: values.pop(key) for key in _OWN_KEYS if key in values}
    task = FORMER_NAMES.get(task, task) if isinstance(task, str) else task
    settings = _task_settings(task, values)
    return _measure(figure, task, settings, own)


def _task_settings(task: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the task as JSON has them; of no task there are none."""
    if task is None:
        for key in values:
            raise UsageError(
                f"--compare-by {key}=: there is no such setting of a figure of metrics.jsonl; "
                f"{did_you_mean(key, _OWN_KEYS)}"
            )
        return {}
    if not isinstance(task, str) or task not in TASKS:
        raise UsageError(f"--compare-by task={task}: no such task; {did_you_mean(str(task), TASKS)}")
    takes = load_task(task).takes()
    for key in values:
        if key not in takes:
            names = did_you_mean(key, [*takes, *_OWN_KEYS])
            raise UsageError(f"--compare-by {key}=: task {task!r} does not take this; {names}")
    return _checked(task, values)


def _checked(task: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those values, of the right types, and with the data in its place."""
    if "only" in values and isinstance(values["only"], str):
        values = {**values, "only": [values["only"]]}
    try:
        given = TypeAdapter(Settings).validate_python(values).given()
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"--compare-by {first['loc'][0]}={values[str(first['loc'][0])]}: {first['msg']}"
        ) from error
    for key, value in given.items():
        if isinstance(value, int | float) and value <= 0:
            raise UsageError(f"--compare-by {key}={value}: write a number above 0")
    data = load_task(task).data
    if data is not None and not ("data" in given and given["data"].exists()):
        found = f"{given['data']} does not exist; write" if "data" in given else "write"
        raise UsageError(f"--compare-by task={task}: {found} data=PATH, {data}")
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}


def _measure(figure: str, task: str | None, settings: dict[str, Any], own: Mapping[str, Any]) -> Measure:
    source = "metrics.jsonl has it" if task is None else "the task gives it"
    known = [_KNOWN[part] for part in reversed(figure.split("/")) if part in _KNOWN]
    better, unit = known[0] if known else (None, f"as {source}")
    if task is None and figure == "accuracy":
        unit = "share of predicted tokens"
    better, unit, at = own.get("better", better), own.get("unit", unit), own.get("at", "end")
    if better is None:
        raise UsageError(
            f"--compare-by {figure}: whether a low or a high one is better is not known; "
            "write better=lower or better=higher"
        )
    for key, value, choices in (("better", better, get_args(Better)), ("at", at, get_args(At))):
        if value not in choices:
            raise UsageError(f"--compare-by {key}={value}: {did_you_mean(str(value), choices)}")
    if task is not None and at != "end":
        raise UsageError(f"--compare-by at={at}: a task is measured on the final weights only; leave it out")
    return Measure(figure=figure, unit=str(unit), better=better, at=at, task=task, settings=settings)
