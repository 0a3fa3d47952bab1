"""The status of a run for people."""

from datetime import datetime, timezone

from pipeline.runs.checkpoint_health import CheckpointHealth
from pipeline.runs.log_tail import time_of
from pipeline.runs.run_progress import Progress
from pipeline.runs.status import Status, details_of

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def render_status(status: Status) -> str:
    """Several lines; every time in UTC."""
    rows = [
        ("run_dir", status.run_dir or "unknown"),
        ("started", _moment(status.outcome.started, status.time)),
        *_progress_rows(status.progress),
        *_lost_row(status),
        ("so far", _counts(status.counts)),
    ]
    blocks = [
        _headline(status),
        "\n".join(f"  {title:18}{text}" for title, text in rows),
        _checkpoints(status),
        _events(status),
    ]
    if status.damaged:
        blocks.append("\n".join(["damaged", *(f"  {text}" for text in status.damaged)]))
    return "\n\n".join(blocks)


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 ")) or "0 s"


def _headline(status: Status) -> str:
    outcome = status.outcome
    if outcome.owner is not None:
        return f"{status.run}: running, {outcome.owner}"
    state = "waits in the queue" if outcome.state == "requeued" else outcome.state
    return f"{status.run}: {state}" + (f" ({outcome.reason})" if outcome.reason else "")


def _progress_rows(progress: Progress) -> list[tuple[str, str]]:
    of = "an unknown number" if progress.num_steps is None else f"{progress.num_steps:,}"
    percent = "" if progress.percent is None else f" ({progress.percent:.1f} %)"
    rows = [("step", f"{progress.step:,} of {of}{percent}")]
    if progress.last_line is None:
        return rows
    held_out = "none yet"
    if progress.held_out_step is not None:
        held_out = f"{_loss(progress.held_out_loss)} after step {progress.held_out_step:,}"
    rows += [
        ("loss", f"{_loss(progress.loss)}, held-out {held_out}"),
        ("tokens", f"{_number(progress.tokens)}, {_number(progress.tokens_per_second)} per second"),
        ("seconds per step", _rounded(progress.seconds_per_step)),
        ("last line", f"{span(progress.last_line_age_seconds or 0.0)} ago"),
    ]
    if progress.seconds_left is not None:
        done = f"done about {_clock(progress.eta)}"
        rows.append(("time left", f"{span(progress.seconds_left)} at the current speed, {done}"))
    return rows


def _lost_row(status: Status) -> list[tuple[str, str]]:
    """What a start now would have to train again."""
    if status.outcome.state in ("done", "never trained"):
        return []
    title = "lost if it died" if status.outcome.owner is not None else "to train again"
    if status.resume_step is None:
        return [
            (title, "everything: no checkpoint is left that a start could use, and it refuses to begin anew")
        ]
    where = f"a start now would go on at step {status.resume_step:,}"
    if status.resume_step == 0:
        where = "there is no checkpoint yet"
    return [(title, f"{status.steps_to_repeat:,} steps; {where}")]


def _counts(counts: dict[str, int]) -> str:
    told = [f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()]
    return ", ".join(text.removesuffix("s") if text.startswith("1 ") else text for text in told)


def _checkpoints(status: Status) -> str:
    if not status.checkpoints:
        return "no checkpoints"
    how = "hash of every file compared" if status.verified else "by file sizes; --verify compares every hash"
    lines = [f"  {'checkpoint':>12}{'age':>14}{'size':>12}{'processes':>11}{'ZeRO':>6}  health ({how})"]
    for checkpoint in status.checkpoints:
        used = "; a start now would use it" if checkpoint.step == status.resume_step else ""
        lines.append(f"{_checkpoint(checkpoint)}  {_health(checkpoint)}{used}")
    return "\n".join(lines)


def _checkpoint(checkpoint: CheckpointHealth) -> str:
    processes, stage = ("?" if n is None else n for n in (checkpoint.world_size, checkpoint.zero_stage))
    age, size = span(checkpoint.age_seconds), _size(checkpoint.bytes)
    return f"  {checkpoint.step:12,}{age:>14}{size:>12}{processes:>11}{stage:>6}"


def _health(checkpoint: CheckpointHealth) -> str:
    return "damaged: " + "; ".join(checkpoint.damage) if checkpoint.damage else "good"


def _events(status: Status) -> str:
    if not status.events:
        return "no events"
    lines = [f"  last {len(status.events)} events (UTC)"]
    for event in status.events:
        time = time_of(event)
        when = "at an unknown time" if time is None else f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}"
        lines.append(f"  {when:21}{event['event']:20}{details_of(event)}".rstrip())
    return "\n".join(lines)


def _moment(time: str | None, now: str) -> str:
    if time is None:
        return "unknown"
    ago = (datetime.fromisoformat(now) - datetime.fromisoformat(time)).total_seconds()
    return f"{_clock(time)}, {span(ago)} ago"


def _clock(time: str | None) -> str:
    return (
        "unknown"
        if time is None
        else f"{datetime.fromisoformat(time).astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
    )


def _loss(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}"


def _rounded(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "?"
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB"
