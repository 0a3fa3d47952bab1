"""Studies without training: grids, run directories written by hand, and curves that look like real ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.study.curves import Curve
from pipeline.study.grid import Axis, Grid


def make_grid(axes: dict[str, list[str]], seeds: tuple[int, ...] = (0, 1, 2)) -> Grid:
    made = (
        Axis(name, tuple(labels), tuple({name: label} for label in labels)) for name, labels in axes.items()
    )
    return Grid(tuple(made), seeds)


def curve_of(losses: list[float | None], *, step_seconds: float = 0.5, **changes: Any) -> Curve:
    """Evaluated every 10 steps."""
    steps = tuple(range(10, 10 * len(losses) + 1, 10))
    curve = {
        "state": "finished",
        "train_steps": steps,
        "train_losses": tuple(losses),
        "steps": steps,
        "seconds": tuple(step_seconds * step for step in steps),
        "tokens": tuple(100 * step for step in steps),
        "losses": tuple(losses),
    }
    return Curve(**{**curve, **changes})


def falling(start: float, end: float, onset: float, seed: int, num_evaluations: int = 12) -> list[float]:
    """A plateau and then a descent, with a little noise."""
    at = np.linspace(0, 1, num_evaluations)
    drop = 1 / (1 + np.exp(-12 * (at - onset)))
    noise = np.random.default_rng(seed).normal(0, 0.03, num_evaluations)
    return [float(loss) for loss in start - (start - end) * drop + noise]


def synthetic_curves(grid: Grid) -> dict[str, list[Curve]]:
    """For every cell by name; arms after the first fall earlier and lower, and take a little longer."""
    curves = {}
    for number, cell in enumerate(grid.cells()):
        arm = grid.axes[0].labels.index(cell.labels[0])
        end = 4.0 + 0.1 * (number % 5) - 0.4 * (arm > 0) - 0.1 * arm
        curves[cell.name] = [
            curve_of(
                falling(7.0, end, 0.7 if arm == 0 else 0.35, seed=97 * number + seed),
                step_seconds=0.5 + 0.04 * (arm > 0) + 0.01 * seed,
                formed_step=40 if arm else None,
            )
            for seed in grid.seeds
        ]
    return curves


def write_run(
    path: Path,
    train: list[dict[str, Any]],
    valid: list[dict[str, Any]],
    *,
    num_steps: int = 40,
    events: tuple[dict[str, Any], ...] = (),
) -> Path:
    """A run directory; lines have what a test gives, and defaults for what curves need beside it."""
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(yaml.safe_dump({"train": {"num_steps": num_steps}}))
    defaults = {"kind": "train", "skipped_steps": 0, "step_seconds": 1.0}
    lines = [{**defaults, "tokens": 100 * line["step"], "loss": 5.0, **line} for line in train]
    lines += [{"kind": "valid", **line} for line in valid]
    lines.sort(key=lambda line: line["step"])
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return path
