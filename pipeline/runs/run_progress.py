"""How far a run is and how fast it goes, by the lines of its metrics.jsonl."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pipeline.runs.log_tail import Line, iso, number_of, time_of, whole_number_of

_SPEED_LINES = 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the run is; the fields are described in status.py."""

    step: int
    num_steps: int | None
    percent: float | None
    loss: float | None
    held_out_loss: float | None
    held_out_step: int | None
    tokens: int | None
    tokens_per_second: float | None
    seconds_per_step: float | None
    last_line: str | None
    last_line_age_seconds: float | None
    seconds_left: float | None = None
    eta: str | None = None


def measure_progress(
    lines: list[Line], resume_step: int, num_steps: int | None, since: datetime | None, now: datetime
) -> Progress:
    """How far a run is, whether or not it is at work.

    Args:
        lines: the last ones of metrics.jsonl.
        resume_step: step of the newest good checkpoint, which may be later than the last line's.
        num_steps: of the whole run, if known.
        since: when the last attempt began, if known.
        now: what the age is counted from.
    """
    train = [line for line in lines if line["kind"] == "train"]
    valid = [line for line in lines if line["kind"] == "valid"]
    last, held_out = (some[-1] if some else {} for some in (train, valid))
    step = max(whole_number_of(last, "step") or 0, resume_step)
    written = next((time for line in reversed(lines) if (time := time_of(line))), None)
    return Progress(
        step=step,
        num_steps=num_steps,
        percent=None if num_steps is None else round(100 * step / num_steps, 2),
        loss=number_of(last, "loss"),
        held_out_loss=number_of(held_out, "loss"),
        held_out_step=whole_number_of(held_out, "step"),
        tokens=whole_number_of(last, "tokens"),
        tokens_per_second=number_of(last, "tokens_per_second"),
        seconds_per_step=_seconds_per_step(train, since),
        last_line=iso(written),
        last_line_age_seconds=None if written is None else round((now - written).total_seconds(), 1),
    )


def with_time_left(progress: Progress, since: datetime | None, now: datetime) -> Progress:
    """The same of a run at work: when it will be done at the current speed."""
    if progress.num_steps is None or progress.seconds_per_step is None:
        return progress
    last_line = None if progress.last_line is None else datetime.fromisoformat(progress.last_line)
    seen = max((time for time in (last_line, since) if time is not None), default=now)
    seconds = (progress.num_steps - progress.step) * progress.seconds_per_step
    left = max(0.0, seconds - (now - seen).total_seconds())
    return replace(progress, seconds_left=round(left, 1), eta=iso(now + timedelta(seconds=left)))


def _seconds_per_step(train: list[Line], since: datetime | None) -> float | None:
    """Between the last lines of this attempt: what lies between two attempts is no time of training."""
    timed = [
        (time, step)
        for line in train
        if (time := time_of(line))
        and (step := whole_number_of(line, "step"))
        and (since is None or time >= since)
    ][-_SPEED_LINES:]
    if len(timed) > 1 and timed[-1][1] > timed[0][1]:
        (begin, first_step), (end, last_step) = timed[0], timed[-1]
        return round((end - begin).total_seconds() / (last_step - first_step), 4)
    return number_of(train[-1], "step_seconds") if train else None
