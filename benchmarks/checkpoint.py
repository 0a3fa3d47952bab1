"""What a checkpoint costs while a run trains, and what it costs to go on from one.

    python -m benchmarks.checkpoint [--rounds 3] [--hidden-size 256]

Saving. One recipe trains on two processes (ZeRO 1) for some steps without a checkpoint, with checkpoints in
the foreground, and in the background, in turn, each time from scratch:

    stall   how long training stood still for a checkpoint, as the run's own events say
    cost    by how much longer the run took per checkpoint than the run without any: the stall, and what the
            background writing took away from the steps beside it (here it shares two cores with them)

Going on. A small model trains through 90 % of an epoch; it is then started again from the checkpoint at 10 %
and from that at 90 %, in turn, and timed from the start of the command to the first step's line in the log.

The last line is one JSON object; `async_stall_ratio` is the stall in the background over that in the
foreground, `resume_ratio` the time to go on at 90 % over that at 10 %. All are medians over the rounds.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from benchmarks.loader import make_corpora
from benchmarks.output import tell
from benchmarks.resume import last_step, train_command
from data_prep.format import read_manifest
from pipeline.errors import EXIT_STOPPED
from pipeline.runs.run_dir import RunDir, describe_machine, read_json_lines

_LENGTH = 64
_SAVE_EVERY, _SAVES = 6, 3
_WAYS: dict[str, list[str]] = {
    "none": [f"checkpoint.every_steps={10 * _SAVE_EVERY * _SAVES}"],
    "foreground": [f"checkpoint.every_steps={_SAVE_EVERY}", "checkpoint.asynchronous=false"],
    "background": [f"checkpoint.every_steps={_SAVE_EVERY}", "checkpoint.asynchronous=true"],
}


def write_recipe(path: Path, corpus: Path, hidden_size: int, batch: int, num_steps: int) -> Path:
    heads = max(2, hidden_size // 64)
    recipe = {
        "run_dir": str(path.parent / "unused"),
        "corpus": str(corpus),
        "model": {
            "num_layers": 8 if hidden_size > 64 else 2,
            "hidden_size": hidden_size,
            "num_heads": heads,
            "intermediate_size": 4 * hidden_size,
        },
        "guidance": {"heads": {"next": 1}, "weight": 0.1},
        "train": {
            "num_steps": num_steps,
            "global_batch_size": batch,
            "micro_batch_size": batch // 2,
            "precision": "fp32",
            "deepspeed": "zero1",
        },
        "data": {"num_workers": 0},
        "evaluation": {"every_steps": 10 * num_steps, "max_rows": 8},
        "logging": {"every_steps": 1, "tensorboard": False},
    }
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def run(command: list[str]) -> None:
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode not in (0, EXIT_STOPPED):
        raise SystemExit(f"{finished.stderr}error: {' '.join(command)} ended with {finished.returncode}")


def seconds_of(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["time"]).timestamp()


def time_saving(recipe: Path, run_dir: Path, way: str) -> dict[str, float]:
    """Train once; what a checkpoint took, and the wall time from the first step to the last save's end."""
    shutil.rmtree(run_dir, ignore_errors=True)
    stop = ("--stop-at", str(_SAVE_EVERY * (_SAVES + 1) - 1))
    run(train_command(str(recipe), 2, [f"run_dir={run_dir}", *_WAYS[way]], *stop))
    steps = {line["step"]: seconds_of(line) for line in read_json_lines(run_dir / "metrics.jsonl")}
    events = [e for e in RunDir(run_dir).read_events() if e["event"] == "checkpoint"]
    saves = [event for event in events if event["step"] % _SAVE_EVERY == 0]
    size = sum(f.stat().st_size for f in (run_dir / "checkpoints").glob("step-*/*")) / len(events[-2:])
    return {
        "wall": steps[max(steps)] - steps[_SAVE_EVERY - 1],
        "stall": statistics.median(e["stall_seconds"] for e in saves) if saves else 0.0,
        "seconds": statistics.median(e["seconds"] for e in saves) if saves else 0.0,
        "bytes": size,
    }


def measure_saving(directory: Path, corpus: Path, hidden_size: int, rounds: int) -> dict[str, Any]:
    recipe = write_recipe(directory / "saving.yaml", corpus, hidden_size, batch=16, num_steps=1000)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
    for _ in tqdm(range(rounds), desc="saving", disable=not sys.stderr.isatty()):
        for way in _WAYS:
            found[way].append(time_saving(recipe, directory / "run", way))

    def median(way: str, name: str) -> float:
        return statistics.median(line[name] for line in found[way])

    def cost(way: str) -> float:
        """Paired within a round, because the machine's speed drifts."""
        pairs = zip(found[way], found["none"])
        return statistics.median((ours["wall"] - none["wall"]) / _SAVES for ours, none in pairs)

    return {
        "checkpoint_megabytes": round(median("foreground", "bytes") / 1e6, 1),
        "foreground_stall_seconds": round(median("foreground", "stall"), 3),
        "background_stall_seconds": round(median("background", "stall"), 3),
        "background_seconds_to_publication": round(median("background", "seconds"), 3),
        "foreground_cost_seconds": round(cost("foreground"), 3),
        "background_cost_seconds": round(cost("background"), 3),
        "async_stall_ratio": round(median("background", "stall") / median("foreground", "stall"), 3),
    }


def time_resume(recipe: Path, run_dir: Path, step: int) -> float:
    """Seconds from the command to the first step's line."""
    overrides = [f"run_dir={run_dir}"]
    started = time.monotonic()
    launcher = subprocess.Popen(
        train_command(str(recipe), 2, overrides, "--stop-at", str(step + 1)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while last_step(RunDir(run_dir)) <= step:
        if launcher.poll() not in (None, EXIT_STOPPED):
            raise SystemExit(f"error: going on at step {step} ended with {launcher.returncode}")
        time.sleep(0.01)
    seconds = time.monotonic() - started
    launcher.wait()
    return seconds


def measure_resuming(directory: Path, corpus: Path, rounds: int) -> dict[str, Any]:
    rows = sum(shard.rows for shard in read_manifest(corpus).shards_of("train"))
    batch = max(2, rows // 100 // 2 * 2)
    steps_per_epoch = rows // batch
    early, late = (
        steps_per_epoch // 10,
        steps_per_epoch * 9 // 10 // (steps_per_epoch // 10) * (steps_per_epoch // 10),
    )
    recipe = write_recipe(directory / "resuming.yaml", corpus, 32, batch, num_steps=steps_per_epoch)
    trained = directory / "trained"
    keep = [f"checkpoint.every_steps={early}", f"checkpoint.keep_every_steps={early}"]
    run(train_command(str(recipe), 2, [f"run_dir={trained}", *keep], "--stop-at", str(late)))
    found: dict[int, list[float]] = {early: [], late: []}
    for _ in tqdm(range(rounds), desc="going on", disable=not sys.stderr.isatty()):
        for step, seconds in found.items():
            copied = directory / "resumed"
            shutil.rmtree(copied, ignore_errors=True)
            shutil.copytree(trained, copied)
            for checkpoint in (copied / "checkpoints").glob("step-*"):
                if checkpoint.name != f"step-{step:08d}":
                    shutil.rmtree(checkpoint)
            lines = (copied / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(line for line in lines if json.loads(line)["step"] <= step)
            (copied / "metrics.jsonl").write_text(kept, encoding="utf-8")
            seconds.append(time_resume(recipe, copied, step))
    early_seconds, late_seconds = (statistics.median(found[step]) for step in (early, late))
    return {
        "resume_seconds_at_10_percent": round(early_seconds, 2),
        "resume_seconds_at_90_percent": round(late_seconds, 2),
        "resume_ratio": round(statistics.median(b / a for a, b in zip(found[early], found[late])), 3),
    }


def render(result: dict[str, Any]) -> str:
    lines = [
        f"a checkpoint of {result['checkpoint_megabytes']} MB by two processes",
        f"  {'':<12}{'training stands still':>24}{'longer run per checkpoint':>28}",
    ]
    for way in ("foreground", "background"):
        stall, cost = result[f"{way}_stall_seconds"], result[f"{way}_cost_seconds"]
        lines.append(f"  {way:<12}{stall:>22.3f} s{cost:>26.3f} s")
    early, late = result["resume_seconds_at_10_percent"], result["resume_seconds_at_90_percent"]
    lines += [
        f"  stall in the background / in the foreground: {result['async_stall_ratio']}",
        f"going on: {early} s at 10 % of an epoch, {late} s at 90 %, ratio {result['resume_ratio']}",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--hidden-size", type=int, default=256, metavar="N", help="of the model that saves")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-") as name:
        directory = Path(name)
        (corpus,) = make_corpora(directory, [_LENGTH], 1)
        result = {
            "benchmark": "checkpoint",
            **measure_saving(directory, corpus.path, arguments.hidden_size, arguments.rounds),
            **measure_resuming(directory, corpus.path, arguments.rounds),
            "rounds": arguments.rounds,
            **describe_machine(),
        }
    print(render(result))
    tell(result, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
