"""Task glue: fine-tuning on each data set of GLUE (Wang et al. 2019), scored on its development set.

A part is a data set with a seed. Beside each score stands that of a model that always gives the most frequent
label of the training examples (for similarities, their mean).
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.fine_tuning.fine_tuner import FineTuner, tokenize_texts
from pipeline.evaluation.fine_tuning.glue_data import (
    DataSet,
    Examples,
    files_of,
    present,
    read_splits,
)
from pipeline.evaluation.fine_tuning.seeds import mean_and_deviation, score_numbers, seed_of, seed_units
from pipeline.evaluation.task import Measured, Settings, Summary, Task, chosen_units


class Glue:
    """The task begun on an encoder."""

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Read every data set that will be needed, so that a mistake in the last is told at the beginning."""
        assert settings.data is not None
        assert settings.seeds is not None
        self._encoder, self._settings = encoder, settings
        self.units = _units(settings)
        self._data_sets = {data_set.name: data_set for data_set in _chosen(settings)}
        self._splits = {
            name: read_splits(settings.data, data_set, settings.limit)
            for name, data_set in self._data_sets.items()
        }

    def measure(self, unit: str) -> Measured:
        """Fine-tune on a data set, and score."""
        name = unit.split("/")[0]
        data_set, splits = self._data_sets[name], self._splits[name]
        tuner = FineTuner(self._encoder, self._settings, "text", data_set.num_labels)
        train = tokenize_texts(tuner, splits.train.texts, splits.train.labels)
        dev = {word: tokenize_texts(tuner, each.texts, each.labels) for word, each in splits.dev.items()}
        logits = tuner.logits(train.features, [each.features for each in dev.values()], seed_of(unit))
        constant = _constant(data_set, splits.train)
        scores = {}
        for (word, examples), predicted in zip(splits.dev.items(), logits):
            true = np.array(examples.labels)
            for metric, measure in data_set.metrics.items():
                scores[f"{metric}-{word}" if word else metric] = {
                    "score": float(measure(true, _predictions(data_set, predicted))),
                    "baseline": float(measure(true, np.full_like(true, constant))),
                    "num_examples": len(true),
                }
        num_cut = train.num_cut + sum(each.num_cut for each in dev.values())
        return {
            "scores": scores,
            "num_train": len(train.features),
            "num_cut": num_cut,
            "max_length": tuner.max_length,
        }

    def summarize(self, measured: Mapping[str, Measured]) -> Summary:
        """A line per data set and metric, and the average over data sets."""
        by_data_set: dict[str, list[Measured]] = {}
        for unit, result in measured.items():
            by_data_set.setdefault(unit.split("/")[0], []).append(result)
        rows: list[list[str | float | None]] = []
        scores: dict[str, list[float]] = {}
        for name, results in by_data_set.items():
            for metric, first in results[0]["scores"].items():
                values = [result["scores"][metric]["score"] for result in results]
                scores[f"{name}/{metric}"] = values
                counts = [results[0]["num_train"], first["num_examples"], len(values)]
                rows.append([name, metric, *mean_and_deviation(values), first["baseline"], *counts])
        average = _average(by_data_set, "score")
        if len(by_data_set) > 1:
            baseline = _average(by_data_set, "baseline")
            rows.append(["average", "", average, None, baseline, None, None, None])
        header = ["data set", "metric", "mean", "std", "constant", "train", "dev", "seeds"]
        return Summary({"average": average, **score_numbers(scores)}, header, rows, _notes(by_data_set))


def _units(settings: Settings) -> list[str]:
    assert settings.data is not None
    assert settings.seeds is not None
    return [unit for one in present(settings.data) for unit in seed_units(settings.seeds, one.name)]


def _chosen(settings: Settings) -> list[DataSet]:
    """Those with a unit that is asked for."""
    assert settings.data is not None
    names = {unit.split("/")[0] for unit in chosen_units(_units(settings), settings.only)}
    return [data_set for data_set in present(settings.data) if data_set.name in names]


def _sources(settings: Settings) -> dict[str, Sequence[Path]]:
    assert settings.data is not None
    return {data_set.name: files_of(settings.data, data_set) for data_set in _chosen(settings)}


def _predictions(data_set: DataSet, logits: np.ndarray) -> np.ndarray:
    return logits[:, 0] if data_set.labels is None else logits.argmax(axis=1)


def _constant(data_set: DataSet, train: Examples) -> int | float:
    if data_set.labels is None:
        return statistics.fmean(train.labels)
    # Of equally frequent ones the first.
    counts = Counter(sorted(train.labels))
    return counts.most_common(1)[0][0]


def _average(by_data_set: Mapping[str, list[Measured]], figure: str) -> float:
    """Mean over data sets; one with several metrics counts with their mean, as in GLUE."""
    return statistics.fmean(
        statistics.fmean(score[figure] for result in results for score in result["scores"].values())
        for results in by_data_set.values()
    )


def _notes(by_data_set: Mapping[str, list[Measured]]) -> list[str]:
    notes = [
        "  constant: the most frequent label of the training examples, or their mean similarity, for all"
    ]
    for name, (result, *_) in by_data_set.items():
        if result["num_cut"]:
            notes.append(
                f"  {name}: {result['num_cut']:,} examples were cut to {result['max_length']} tokens"
            )
    if "WNLI" in by_data_set:
        notes.append("  WNLI: its dev examples contradict training examples, so learning them by heart harms")
    return notes


_DEFAULTS: dict[str, Any] = {
    "seeds": 3,
    "epochs": 3.0,
    "learning_rate": 5e-5,
    "batch_size": 32,
    "max_length": 128,
}

TASK = Task(
    data="the directory with GLUE's data sets, such as CoLA/train.tsv and CoLA/dev.tsv",
    begin=Glue,
    sources=_sources,
    defaults=_DEFAULTS,
    optional=["only", "limit"],
)
