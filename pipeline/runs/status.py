"""What became of a run, gathered from its files alone, while it runs or long after.

Fields of `python -m pipeline status RUN --json`; null where nothing is known:
    run                  the directory looked at
    run_dir              what its recipe calls it
    time                 when it was looked at
    state                "running", "requeued" (waits in the queue), "stopped" (on request), "died", "done"
                         or "never trained"
    reason               how the last attempt ended, in words; null if it runs, is done or was never trained
    owner                who trains it now, as the lock says: host, pid, job, since (seconds since 1970)
    started              when the last attempt began
    step                 of the last training line, or of the newest good checkpoint if that is later
    num_steps, percent   of the whole run, and how much of it is done
    loss                 of the last training line; also null if it is not finite
    held_out_loss        of the last evaluation
    held_out_step        when that was
    tokens               trained since the start of the run
    tokens_per_second    of the last training line, over all processes
    seconds_per_step     between the last lines, evaluations and checkpoints included
    seconds_left, eta    at this speed; only while it runs
    last_line            when the last line of metrics.jsonl was written
    last_line_age_seconds  how long ago that was
    checkpoints          newest first: step, path, time, age_seconds, bytes, world_size, zero_stage, damage (a
                         list of reasons, empty if nothing was found)
    verified             whether damage was looked for in every file's hash, not only in its size
    resume_step          where a start now would go on; null if no checkpoint is left that it could use
    steps_to_repeat      steps trained since that one: lost if the run died now
    counts               over the whole run: requeues, resumes, signals, skipped_steps, rollbacks,
                         corrupt_checkpoints, loss_spikes
    events               the last ten of events.jsonl, as they stand there
    damaged              what could not be read of the run's own files, in words
Times are UTC in ISO 8601.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

from pipeline.config.load import read_settings
from pipeline.errors import UserError
from pipeline.runs.checkpoint_health import CheckpointHealth, look_at_checkpoints
from pipeline.runs.lock import Owner, living_owner
from pipeline.runs.log_tail import Line, iso, read_last_metrics, read_lines, time_of
from pipeline.runs.run_dir import RunDir
from pipeline.runs.run_progress import Progress, measure_progress, with_time_left

_SHOWN_EVENTS = 10
_LONGEST_DETAIL = 80
_NAMED = ("time", "event")
_BEGINNINGS = ("start", "resume")
_ENDS = {  # an event that an attempt ends with, and the state it leaves
    "stop": "stopped",
    "lost process": "died",
    "save failed": "died",
    "diverged": "died",
    "requeue": "requeued",
    "not requeued": "died",  # unless it was stopped or done before
    "done": "done",
}
_COUNTED = {
    "requeue": "requeues",
    "resume": "resumes",
    "signal": "signals",
    "skipped step": "skipped_steps",
    "rollback": "rollbacks",
    "corrupt checkpoint": "corrupt_checkpoints",
    "loss spike": "loss_spikes",
}
_SILENT_END = "without a word: killed, out of memory, or its machine was lost; the end of its output may tell"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the last attempt; fields as above."""

    state: str
    reason: str | None
    owner: Owner | None
    started: str | None


@dataclass(frozen=True, kw_only=True)
class Status:
    """All that the status command tells; fields as above."""

    run: str
    run_dir: str | None
    time: str
    outcome: Outcome
    progress: Progress
    checkpoints: list[CheckpointHealth]
    verified: bool
    resume_step: int | None
    steps_to_repeat: int
    counts: dict[str, int]
    events: list[Line]
    damaged: list[str]

    def to_json(self) -> dict[str, Any]:
        """One flat object with the fields above."""
        fields = asdict(self)
        head = {name: fields.pop(name) for name in ("run", "run_dir", "time")}
        return {**head, **fields.pop("outcome"), **fields.pop("progress"), **fields}


class _Wanted(NamedTuple):
    """What is wanted of a recipe, and what is wrong with it, in words."""

    run_dir: str | None
    num_steps: int | None
    damage: list[str]


def open_run(path: str) -> RunDir:
    """A directory that holds a run, or what is left of one; a UsageError otherwise."""
    run = RunDir(path)
    if any(trace.exists() for trace in (run.checkpoints, run.metrics_file, run.events_file)):
        return run
    return RunDir.open(path)


def gather_status(run: RunDir, verify: bool, now: datetime) -> Status:
    """Look at a run's files; nothing is written, locked or loaded.

    Args:
        run: an existing run.
        verify: hash every checkpoint, with a progress bar.
        now: what ages are counted from, with a time zone.
    """
    owner = living_owner(run.path)
    recipe = _read_recipe(run)
    events = read_lines(run.events_file, "event")
    metrics = read_last_metrics(run.metrics_file)
    checkpoints = look_at_checkpoints(run.checkpoints, verify, now)  # last: hashing may take minutes
    attempt = _last_attempt(events.objects)
    since = _began(attempt, owner)
    resume_step = _resume_step(checkpoints, events.objects)
    progress = measure_progress(metrics.objects, resume_step or 0, recipe.num_steps, since, now)
    if owner is not None:
        progress = with_time_left(progress, since, now)
    trained = progress.step > 0 or bool(checkpoints)
    return Status(
        run=str(run.path),
        run_dir=recipe.run_dir,
        time=now.isoformat(timespec="seconds"),
        outcome=_outcome(attempt, owner, since, progress, trained),
        progress=progress,
        checkpoints=checkpoints,
        verified=verify,
        resume_step=resume_step,
        steps_to_repeat=progress.step - (resume_step or 0),
        counts=_count(events.objects),
        events=events.objects[-_SHOWN_EVENTS:],
        # A run that was only just started has no metrics yet.
        damaged=recipe.damage + events.damage + (metrics.damage if trained else []),
    )


def details_of(event: Line) -> str:
    """What an event says beside its name and time, for people."""
    details = {key: value for key, value in event.items() if key not in _NAMED and value is not None}
    return ", ".join(f"{key.replace('_', ' ')} {_told(value)}" for key, value in details.items())


def _told(value: Any) -> str:
    if isinstance(value, dict):
        text = "; ".join(f"{key}: {_told(item)}" for key, item in value.items())
    elif isinstance(value, list):  # numbers as `data_prep inspect --rows` takes them
        text = ("; " if any(isinstance(item, str) for item in value) else " ").join(map(str, value))
    else:
        text = str(value)
    return text if len(text) <= _LONGEST_DETAIL else text[: _LONGEST_DETAIL - 3] + "..."


def _state_after(ends: list[str]) -> str:
    if "done" in ends:
        return "done"
    return "stopped" if ends[-2:] == ["stop", "not requeued"] else _ENDS[ends[-1]]


def _told_end(event: Line) -> str:
    """`stop at step 226: SIGTERM`."""
    where = f" at step {event['step']}" if "step" in event else ""
    why = _told(event["reason"]) if "reason" in event else details_of(event)
    return f"{event['event']}{where}: {why}".rstrip(": ")


def _read_recipe(run: RunDir) -> _Wanted:
    """The two values needed; the rest may be of another version of the program."""
    name = run.recipe_file.name
    if not run.recipe_file.is_file():
        return _Wanted(None, None, [f"{name} is missing"])
    try:
        settings = read_settings(run.recipe_file, [])
    except (UserError, OSError) as error:
        return _Wanted(None, None, [str(error)])
    train = settings.get("train")
    num_steps = train.get("num_steps") if isinstance(train, dict) else None
    if not isinstance(num_steps, int):
        return _Wanted(settings.get("run_dir"), None, [f"{name}: train.num_steps is not a number"])
    return _Wanted(settings.get("run_dir"), num_steps, [])


def _last_attempt(events: list[Line]) -> list[Line]:
    """Events since the run was last started or resumed, that one included."""
    beginnings = [index for index, event in enumerate(events) if event["event"] in _BEGINNINGS]
    return events[beginnings[-1] :] if beginnings else events


def _began(attempt: list[Line], owner: Owner | None) -> datetime | None:
    """When the last attempt began; one that has only just taken the lock has no event yet."""
    begun = [time_of(attempt[0])] if attempt else []
    if owner is not None:
        begun.append(datetime.fromtimestamp(owner.since, timezone.utc))
    return max((time for time in begun if time is not None), default=None)


def _resume_step(checkpoints: list[CheckpointHealth], events: list[Line]) -> int | None:
    """Where a start now would begin; None if it would refuse to begin anew."""
    good = [checkpoint.step for checkpoint in checkpoints if not checkpoint.damage]
    lost = bool(checkpoints) or any(event["event"] == "checkpoint" for event in events)
    return good[0] if good else None if lost else 0


def _outcome(
    attempt: list[Line], owner: Owner | None, since: datetime | None, progress: Progress, trained: bool
) -> Outcome:
    ends = [event for event in attempt if event["event"] in _ENDS]
    reason = None
    if owner is not None:
        state = "running"
    elif ends:
        state = _state_after([event["event"] for event in ends])
        reason = None if state == "done" else ", then ".join(map(_told_end, ends))
    elif progress.num_steps is not None and progress.step >= progress.num_steps:
        state = "done"
    elif trained:
        state, reason = "died", _SILENT_END
    else:
        state = "never trained"
    return Outcome(state=state, reason=reason, owner=owner, started=iso(since))


def _count(events: list[Line]) -> dict[str, int]:
    counts = dict.fromkeys(_COUNTED.values(), 0)
    for event in events:
        kind = event["event"]
        if kind == "stop" and str(event.get("reason")).startswith("SIG"):
            kind = "signal"
        if kind in _COUNTED:
            counts[_COUNTED[kind]] += 1
    return counts
