"""Task tag: fine-tuning on tagged words in CoNLL's layout, scored by the F1 of spans, such as named entities.

A part is a seed. Spans are read from tags as CoNLL's own script (conlleval) does it, which is seqeval's
default mode: an I- that follows no span of its type begins one. Scores are over all words of the test split
if there is one, else of the dev split; words behind the end of the model's input are predicted O.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqeval.metrics import classification_report

from pipeline.errors import DataError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.fine_tuning.fine_tuner import FineTuner
from pipeline.evaluation.fine_tuning.seeds import mean_and_deviation, score_numbers, seed_of, seed_units
from pipeline.evaluation.fine_tuning.tagged_words import (
    OUTSIDE,
    predicted_tags,
    read_sentences,
    tag_set,
    tokenize_words,
)
from pipeline.evaluation.fine_tuning.text_files import find_file, require_file
from pipeline.evaluation.task import Measured, Settings, Summary, Task

_METRICS = ("f1", "precision", "recall")
_SUFFIXES = (".txt", ".conll", ".txt.gz", ".conll.gz")


class Tagging:
    """The task begun on an encoder."""

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Read all of it."""
        assert settings.data is not None
        assert settings.seeds is not None
        self.units = seed_units(settings.seeds)
        train_file, scored_file = _files(settings.data)
        train = read_sentences(train_file)
        # Of all training examples, so that it does not depend on how many are used.
        self._tags = tag_set(train)
        if self._tags == [OUTSIDE]:
            raise DataError(
                f"{train_file}: all words are tagged {OUTSIDE}; expected others too, such as B-PER"
            )
        self._train = train[: settings.limit]
        self._scored = read_sentences(scored_file, self._tags, settings.limit)
        self._split = scored_file.name.split(".")[0]
        self._tuner = FineTuner(encoder, settings, "word", len(self._tags))

    def measure(self, unit: str) -> Measured:
        """Fine-tune, and score."""
        train = tokenize_words(self._tuner, self._train, self._tags)
        scored = tokenize_words(self._tuner, self._scored, self._tags)
        (logits,) = self._tuner.logits(train.features, [scored.features], seed_of(unit))
        predicted = predicted_tags(logits, scored.places, self._tags)
        return {
            **span_scores([sentence.tags for sentence in self._scored], predicted),
            "split": self._split,
            "num_train": len(self._train),
            "num_sentences": len(self._scored),
            "num_words": sum(len(sentence.words) for sentence in self._scored),
            "num_cut_words": scored.num_cut,
            "max_length": self._tuner.max_length,
        }

    def summarize(self, measured: Mapping[str, Measured]) -> Summary:
        """A line per metric, then one per type."""
        results = list(measured.values())
        first = results[0]
        scores = {metric: [result[metric] for result in results] for metric in _METRICS}
        rows: list[list[str | float | None]] = [
            [metric, *mean_and_deviation(values), first["num_spans"] if metric == "f1" else None]
            for metric, values in scores.items()
        ]
        for name, about in first["types"].items():
            values = [result["types"][name]["f1"] if name in result["types"] else 0.0 for result in results]
            rows.append([f"f1 of {name}", *mean_and_deviation(values), about["num_spans"]])
        notes = [
            f"  {first['num_sentences']:,} sentences, {first['num_words']:,} words of the {first['split']} "
            f"split; {first['num_train']:,} training sentences; seeds: {len(results)}"
        ]
        if first["num_cut_words"]:
            notes.append(
                f"  {first['num_cut_words']:,} words lie behind the cut at {first['max_length']} tokens and "
                f"were predicted {OUTSIDE}"
            )
        return Summary(score_numbers(scores), ["metric", "mean", "std", "spans"], rows, notes)


def span_scores(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Precision, recall and F1 of spans, over all types together and for each type.

    Args:
        true: a tag for each word of each sentence.
        predicted: likewise.
    """
    report = classification_report(
        [list(tags) for tags in true],
        [list(tags) for tags in predicted],
        output_dict=True,
        zero_division=0,
    )
    overall = {name: report.pop(f"{name} avg") for name in ("micro", "macro", "weighted")}
    return {
        **_figures(overall["micro"]),
        "types": {name: _figures(report[name]) for name in sorted(report) if report[name]["support"]},
    }


def _figures(found: Mapping[str, float]) -> dict[str, float]:
    return {
        "f1": float(found["f1-score"]),
        "precision": float(found["precision"]),
        "recall": float(found["recall"]),
        "num_spans": int(found["support"]),
    }


def _files(directory: Path) -> tuple[Path, Path]:
    """Trained on and scored."""
    train = require_file(directory, _names("train"))
    return train, find_file(directory, _names("test")) or require_file(directory, _names("dev"))


def _sources(settings: Settings) -> dict[str, Sequence[Path]]:
    assert settings.data is not None
    return {"sentences": _files(settings.data)}


def _names(split: str) -> list[str]:
    return [split + suffix for suffix in _SUFFIXES]


TASK = Task(
    data=f"the directory with train and dev or test ({', '.join(_SUFFIXES)}) in CoNLL's layout",
    begin=Tagging,
    sources=_sources,
    defaults={"seeds": 3, "epochs": 10.0, "learning_rate": 5e-5, "batch_size": 32, "max_length": 256},
    optional=["only", "limit"],
)
