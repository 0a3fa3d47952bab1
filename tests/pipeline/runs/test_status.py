"""What became of a run, told from files made by hand: while it runs, after every kind of end, damaged."""

import fcntl
import json
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.files import sha256_file
from pipeline.__main__ import main
from pipeline.checkpoints.manifest import CheckpointFile, CheckpointManifest, checkpoint_name
from pipeline.errors import UsageError
from pipeline.runs import log_tail, status
from pipeline.runs.lock import LOCK_NAME
from pipeline.runs.status import Status, gather_status, open_run
from pipeline.runs.status_text import render_status, span

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 3, 2, 8, 0, 0, tzinfo=timezone.utc)
STARTED = NOW - timedelta(hours=1)
NUM_STEPS = 400


class MadeRun:
    """A run directory written by hand; every line at a time of its own choice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.checkpoints.mkdir(parents=True)
        recipe = {"run_dir": "runs/mine", "train": {"num_steps": NUM_STEPS}}
        (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (path / "metrics.jsonl").touch()
        self.event("start", STARTED, world_size=2)

    def event(self, kind: str, time: datetime = NOW, **details: Any) -> None:
        line = {"time": time.isoformat(timespec="seconds"), "event": kind, **details}
        self.append("events.jsonl", json.dumps(line) + "\n")

    def train_line(self, step: int, time: datetime, **values: Any) -> None:
        line = {"kind": "train", "time": time.isoformat(timespec="milliseconds"), "step": step, "loss": 5.0}
        line |= {"tokens": step * 512, "tokens_per_second": 1000.0, "step_seconds": 0.5, **values}
        self.append("metrics.jsonl", json.dumps(line) + "\n")

    def valid_line(self, step: int, time: datetime, loss: float | None) -> None:
        line = {"kind": "valid", "time": time.isoformat(timespec="milliseconds"), "step": step, "loss": loss}
        self.append("metrics.jsonl", json.dumps(line) + "\n")

    def append(self, name: str, text: str) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)

    def checkpoint(self, step: int, time: datetime = NOW) -> Path:
        path = self.checkpoints / checkpoint_name(step)
        path.mkdir()
        files = {}
        for name in ("model.pt", "state-rank-00000.pt"):
            (path / name).write_bytes(name.encode() * 100)
            size = (path / name).stat().st_size
            files[name] = CheckpointFile(bytes=size, sha256=sha256_file(path / name))
        manifest = CheckpointManifest(step=step, world_size=2, zero_stage=1, files=files)
        (path / "MANIFEST.json").write_text(manifest.model_dump_json())
        os.utime(path / "MANIFEST.json", (time.timestamp(), time.timestamp()))
        self.event("checkpoint", time, step=step, seconds=0.1)
        return path

    def lock(self, since: datetime, pid: int = os.getpid()) -> None:
        owner = {"host": platform.node(), "pid": pid, "job": "71", "since": since.timestamp()}
        (self.path / LOCK_NAME).write_text(json.dumps(owner))

    def look(self, verify: bool = False) -> Status:
        return gather_status(open_run(str(self.path)), verify, NOW)


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    """A run that was started and did nothing yet."""
    return MadeRun(tmp_path / "run")


@pytest.fixture
def trained(run: MadeRun) -> MadeRun:
    """A run with checkpoints at 40 and 80, ten-step lines up to 100, five seconds between them."""
    for step in range(10, 101, 10):
        run.train_line(step, STARTED + timedelta(seconds=step / 2))
    run.valid_line(100, STARTED + timedelta(seconds=52), 5.25)
    run.checkpoint(40, STARTED + timedelta(seconds=20))
    run.checkpoint(80, STARTED + timedelta(seconds=40))
    return run


# What it is doing


def test_a_run_that_has_only_started(run: MadeRun) -> None:
    found = run.look()

    assert (found.outcome.state, found.progress.step, found.resume_step) == ("never trained", 0, 0)
    assert found.damaged == []


def test_a_running_one_tells_by_whom_and_how_long_still(trained: MadeRun) -> None:
    trained.lock(since=STARTED)
    trained.train_line(110, NOW - timedelta(seconds=10))
    trained.train_line(120, NOW - timedelta(seconds=2), loss=4.5)

    found = trained.look()

    assert found.outcome.state == "running"
    assert found.outcome.owner is not None
    assert (found.outcome.owner.pid, found.outcome.owner.job) == (os.getpid(), "71")
    assert (found.progress.step, found.progress.percent) == (120, 30.0)
    assert (found.progress.loss, found.progress.held_out_loss, found.progress.held_out_step) == (
        4.5,
        5.25,
        100,
    )
    assert (found.progress.tokens, found.progress.tokens_per_second) == (120 * 512, 1000.0)
    assert found.progress.last_line_age_seconds == 2
    assert (found.resume_step, found.steps_to_repeat) == (80, 40)


def test_time_left_is_that_of_the_last_lines(trained: MadeRun) -> None:
    trained.lock(since=NOW - timedelta(seconds=100))
    trained.event("resume", NOW - timedelta(seconds=90), step=80, world_size=2)
    trained.train_line(110, NOW - timedelta(seconds=25))
    trained.train_line(120, NOW - timedelta(seconds=5))

    found = trained.look()

    # 20 seconds for ten steps since it was resumed; the hour before, with and without work, does not count.
    assert found.progress.seconds_per_step == 2.0
    assert found.progress.seconds_left == (NUM_STEPS - 120) * 2.0 - 5
    assert found.progress.eta == (NOW + timedelta(seconds=found.progress.seconds_left)).isoformat()


def test_a_run_that_is_just_being_resumed(trained: MadeRun) -> None:
    """Neither an event nor a line is of this attempt yet."""
    trained.event("stop", NOW - timedelta(minutes=30), step=100, reason="SIGUSR2")
    trained.lock(since=NOW - timedelta(seconds=4))

    found = trained.look()

    assert found.outcome.state == "running"
    assert found.outcome.reason is None
    assert found.outcome.started == (NOW - timedelta(seconds=4)).isoformat()
    assert found.progress.seconds_left == (NUM_STEPS - 100) * 0.5 - 4


ENDS: dict[str, tuple[list[tuple[str, dict[str, Any]]], str, str | None]] = {
    "stop": ([("stop", {"step": 100, "reason": "SIGTERM"})], "stopped", "stop at step 100: SIGTERM"),
    "requeue": (
        [
            ("stop", {"step": 100, "reason": "deadline"}),
            ("requeue", {"step": 100, "reason": "good checkpoint"}),
        ],
        "requeued",
        "stop at step 100: deadline, then requeue at step 100: good checkpoint",
    ),
    "not requeued": (
        [("stop", {"reason": "SIGTERM"}), ("not requeued", {"reason": "no progress", "exit_code": 75})],
        "stopped",
        "stop: SIGTERM, then not requeued: no progress",
    ),
    "failed": ([("not requeued", {"reason": "a defect"})], "died", "not requeued: a defect"),
    "recipe broken in the queue": (
        [("stop", {}), ("requeue", {}), ("not requeued", {"reason": "the recipe is wrong"})],
        "died",
        "stop, then requeue, then not requeued: the recipe is wrong",
    ),
    "lost": ([("lost process", {"ranks": [3], "reason": "hangs"})], "died", "lost process: hangs"),
    "full disk": ([("save failed", {"reason": "no space"})], "died", "save failed: no space"),
    "diverged": ([("diverged", {"steps": [3], "rows": [17, 204]})], "died", "diverged: steps 3, rows 17 204"),
    "silence": ([], "died", status._SILENT_END),
    "done": ([("done", {"step": NUM_STEPS})], "done", None),
    "done in a job": ([("done", {}), ("not requeued", {"reason": "training is done"})], "done", None),
}


@pytest.mark.parametrize(("events", "state", "reason"), ENDS.values(), ids=ENDS)
def test_every_kind_of_end(
    trained: MadeRun, events: list[tuple[str, dict[str, Any]]], state: str, reason: str | None
) -> None:
    # An earlier attempt's end is not this one's.
    trained.event("stop", step=40, reason="SIGHUP")
    trained.event("resume", step=40)
    for kind, details in events:
        trained.event(kind, **details)
    trained.lock(since=STARTED, pid=2**22 + 1)  # no process has this number

    found = trained.look().outcome

    assert (found.state, found.reason, found.owner) == (state, reason, None)


def test_a_run_that_was_started_once_more_when_it_was_done(trained: MadeRun) -> None:
    trained.train_line(NUM_STEPS, NOW)
    trained.checkpoint(NUM_STEPS)
    trained.event("done")
    trained.event("resume", step=NUM_STEPS)

    assert trained.look().outcome.state == "done"


def test_steps_behind_the_last_line_count_when_they_are_saved(trained: MadeRun) -> None:
    """A stop request saves between two logged steps."""
    trained.checkpoint(107)

    found = trained.look()

    assert (found.progress.step, found.resume_step, found.steps_to_repeat) == (107, 107, 0)


# Checkpoints


def test_checkpoints_with_age_size_and_who_wrote_them(trained: MadeRun) -> None:
    newest, older = trained.look().checkpoints

    assert (newest.step, older.step) == (80, 40)
    assert (newest.world_size, newest.zero_stage, newest.damage) == (2, 1, [])
    assert newest.bytes == 100 * (len("model.pt") + len("state-rank-00000.pt"))
    assert newest.age_seconds == 3600 - 40


def cut_short(path: Path) -> None:
    (path / "model.pt").write_bytes(b"short")


def remove_a_file(path: Path) -> None:
    (path / "model.pt").unlink()


def remove_the_manifest(path: Path) -> None:
    (path / "MANIFEST.json").unlink()


def break_the_manifest(path: Path) -> None:
    (path / "MANIFEST.json").write_text("{")


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut_short, "model.pt has 5 bytes instead of 800"),
        (remove_a_file, "model.pt is missing"),
        (remove_the_manifest, "MANIFEST.json is missing"),
        (break_the_manifest, "MANIFEST.json is not readable"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_not_counted_on(
    trained: MadeRun, damage: Any, told: str, verify: bool
) -> None:
    damage(trained.checkpoints / checkpoint_name(80))

    found = trained.look(verify)

    assert [checkpoint.damage for checkpoint in found.checkpoints] == [[told], []]
    assert (found.resume_step, found.steps_to_repeat) == (40, 60)


def test_only_verify_sees_a_flipped_bit(trained: MadeRun, capsys: pytest.CaptureFixture[str]) -> None:
    file = trained.checkpoints / checkpoint_name(80) / "model.pt"
    content = bytearray(file.read_bytes())
    content[17] ^= 1
    file.write_bytes(content)

    assert trained.look().resume_step == 80
    assert capsys.readouterr().err == ""
    found = trained.look(verify=True)

    assert found.resume_step == 40
    assert "sha256 differs" in found.checkpoints[0].damage[0]
    assert "verify" in capsys.readouterr().err  # the progress bar


@pytest.mark.parametrize("steps", [[40, 80], []])
def test_without_a_good_checkpoint_a_start_would_refuse(trained: MadeRun, steps: list[int]) -> None:
    for step in (40, 80):
        path = trained.checkpoints / checkpoint_name(step)
        if step in steps:
            cut_short(path)
        else:
            path.rename(path.with_name("elsewhere-" + path.name))

    found = trained.look()

    assert found.resume_step is None
    assert "no checkpoint is left" in render_status(found)


def test_a_checkpoint_deleted_meanwhile_is_left_out(
    trained: MadeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = trained.checkpoints / checkpoint_name(20)
    listed = [trained.checkpoints / checkpoint_name(step) for step in (80, 40)]
    monkeypatch.setattr("pipeline.runs.checkpoint_health.list_checkpoints", lambda _: [*listed, gone])

    assert [checkpoint.step for checkpoint in trained.look().checkpoints] == [80, 40]


# Events and counts


def test_what_happened_is_counted_over_the_whole_run(trained: MadeRun) -> None:
    kinds = ["requeue", "resume", "resume", "skipped step", "rollback", "corrupt checkpoint", "loss spike"]
    for kind in kinds:
        trained.event(kind)
    for reason in ("SIGTERM", "requested", "SIGUSR2"):
        trained.event("stop", reason=reason)

    found = trained.look()

    assert found.counts == {
        **{"requeues": 1, "resumes": 2, "signals": 2, "skipped_steps": 1},
        **{"rollbacks": 1, "corrupt_checkpoints": 1, "loss_spikes": 1},
    }
    assert len(found.events) == 10
    assert found.events[-1]["reason"] == "SIGUSR2"


def test_an_event_of_another_version_is_shown_as_it_is(run: MadeRun) -> None:
    run.event("moon landing", NOW, crew=["Neil", "Buzz"], step=11, note=None, log="x" * 500)
    run.append("events.jsonl", '{"event": "timeless"}\n{"event": "odd", "time": 17}\n')

    shown = render_status(run.look())

    assert re.search(
        r"2026-03-02 08:00:00  moon landing +crew Neil; Buzz, step 11, log x{77}\.\.\.$", shown, re.M
    )
    assert "at an unknown time   timeless" in shown
    assert "at an unknown time   odd" in shown


def test_times_of_other_zones_are_shown_in_utc(run: MadeRun) -> None:
    run.event("snapshot", NOW.astimezone(timezone(timedelta(hours=9))))

    assert "2026-03-02 08:00:00  snapshot" in render_status(run.look())


# Damaged and missing files


def test_a_line_being_written_is_no_damage(trained: MadeRun) -> None:
    trained.append("metrics.jsonl", '{"kind": "train", "st')
    trained.append("events.jsonl", '{"time": "20')

    found = trained.look()

    assert found.damaged == []
    assert found.progress.step == 100


def test_broken_lines_are_counted_and_the_others_used(trained: MadeRun) -> None:
    trained.append("metrics.jsonl", '{"kind": "tr\n\0\0\0\n[]\n{"loss": 1}\n\n')
    trained.train_line(110, NOW)
    trained.append("events.jsonl", "{\n")
    trained.event("stop", reason="SIGTERM")

    found = trained.look()

    assert found.damaged == ["events.jsonl: 1 line is unreadable", "metrics.jsonl: 4 lines are unreadable"]
    assert (found.progress.step, found.outcome.state) == (110, "stopped")
    assert "metrics.jsonl: 4 lines are unreadable" in render_status(found)


def test_values_that_are_none_do_not_hurt(trained: MadeRun) -> None:
    trained.train_line(110, NOW, loss=None, tokens="many", tokens_per_second=None)
    trained.valid_line(110, NOW, None)
    trained.append("metrics.jsonl", '{"kind": "train", "step": NaN, "loss": NaN, "time": "noon"}\n')

    found = trained.look()

    assert found.progress.loss is None
    assert "loss              not finite, held-out not finite after step 110" in render_status(found)
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "events.jsonl"])
def test_a_missing_file_is_told(trained: MadeRun, name: str) -> None:
    (trained.path / name).unlink()

    found = trained.look()

    assert found.damaged == [f"{name} is missing"]
    assert found.progress.step == (80 if name == "metrics.jsonl" else 100)
    assert found.resume_step == 80
    render_status(found)


@pytest.mark.parametrize("text", ["train: [", "train: 3", "[]", "", "run_dir: runs/mine"])
def test_a_broken_recipe_is_told(trained: MadeRun, text: str) -> None:
    (trained.path / "recipe.yaml").write_text(text)

    found = trained.look()

    assert len(found.damaged) == 1
    assert "recipe.yaml" in found.damaged[0]
    assert (found.progress.num_steps, found.progress.percent, found.progress.step) == (None, None, 100)
    assert "100 of an unknown number" in render_status(found)


def test_a_recipe_of_another_version_will_do(trained: MadeRun) -> None:
    with (trained.path / "recipe.yaml").open("a") as file:
        file.write("a_key_of_tomorrow: 1\n")

    assert (trained.look().progress.num_steps, trained.look().damaged) == (NUM_STEPS, [])


def test_a_directory_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        open_run(str(tmp_path))
    assert main(["status", str(tmp_path / "nothing")]) == 64


# Reading


def test_a_long_log_is_read_from_its_end(trained: MadeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_tail, "_TAIL_BYTES", 2000)
    trained.append("metrics.jsonl", "broken\n")  # far from the end: not looked at
    for step in range(110, 301, 10):
        trained.train_line(step, NOW)
    trained.valid_line(300, NOW, 3.0)
    trained.train_line(310, NOW, loss=2.5)

    found = trained.look()

    assert (found.progress.loss, found.progress.held_out_loss, found.damaged) == (2.5, 3.0, [])


def test_the_last_evaluation_is_found_however_far_back(
    trained: MadeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "_TAIL_BYTES", 100)
    for step in range(110, 301, 10):
        trained.train_line(step, NOW)

    assert (trained.look().progress.step, trained.look().progress.held_out_loss) == (300, 5.25)


def test_the_run_is_not_disturbed(trained: MadeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a file changes, and no start finds the lock taken."""
    trained.lock(since=STARTED)
    monkeypatch.setattr(fcntl, "flock", None)

    def content() -> dict[str, tuple[int, int]]:
        files = [path for path in trained.path.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = content()
    trained.look(verify=True)

    assert content() == before


# The command


def test_json_has_the_documented_fields(trained: MadeRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.__doc__ is not None
    columns = re.findall(r"^    (\w.*?)  ", status.__doc__, re.MULTILINE)
    documented = [name for column in columns for name in column.split(", ")]

    assert main(["status", str(trained.path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)

    assert sorted(shown) == sorted(documented)
    told = re.search(r"newest first: (.*?) \(a", " ".join(status.__doc__.split()))
    assert told is not None
    assert list(shown["checkpoints"][0]) == told[1].split(", ")
    assert list(shown["counts"]) == list(trained.look().counts)


def test_text_has_what_matters(trained: MadeRun) -> None:
    trained.lock(since=STARTED)
    cut_short(trained.checkpoints / checkpoint_name(80))

    shown = render_status(trained.look())

    assert shown.startswith(f"{trained.path}: running, process {os.getpid()} on {platform.node()} (job 71)\n")
    assert "step              100 of 400 (25.0 %)" in shown
    assert "loss              5.0000, held-out 5.2500 after step 100" in shown
    assert "lost if it died   60 steps; a start now would go on at step 40" in shown
    assert "at the current speed" in shown
    assert re.search(r"^ +80 .* damaged: model.pt has 5 bytes instead of 800$", shown, re.MULTILINE)
    assert re.search(
        r"^ +40 +59 min 40 s +2.7 kB +2 +1  good; a start now would use it$", shown, re.MULTILINE
    )


def test_it_is_quick(trained: MadeRun) -> None:
    """DeepSpeed takes seconds to import and may compile things; looking at a run needs none of it."""
    code = (
        "import sys\nfrom pipeline.__main__ import main\n"
        f"assert main(['status', {str(trained.path)!r}, '--verify']) == 0\n"
        "assert 'deepspeed' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (75, "1 min 15 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (200_000, "2 d 7 h"),
    ],
)
def test_spans_are_told_in_two_units(seconds: float, told: str) -> None:
    assert span(seconds) == told
