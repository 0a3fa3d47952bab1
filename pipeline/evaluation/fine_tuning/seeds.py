"""Parts of a task that differ in the seed of their fine-tuning only, and what they come to."""

import statistics
from collections.abc import Mapping, Sequence


def seed_units(num_seeds: int, name: str | None = None) -> list[str]:
    """Names of the units, such as "seed-0" or "SST-2/seed-0"."""
    return [(f"{name}/" if name else "") + f"seed-{seed}" for seed in range(num_seeds)]


def seed_of(unit: str) -> int:
    """The seed in a unit's name."""
    return int(unit.rpartition("seed-")[2])


def mean_and_deviation(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation with n - 1 in the denominator; None for a single score."""
    return statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else None


def score_numbers(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean of every score over the seeds as "NAME", and its standard deviation as "NAME_std"."""
    numbers: dict[str, float] = {}
    for name, values in scores.items():
        mean, deviation = mean_and_deviation(values)
        numbers[name] = mean
        if deviation is not None:
            numbers[f"{name}_std"] = deviation
    return numbers
