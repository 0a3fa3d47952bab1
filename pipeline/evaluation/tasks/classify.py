"""Task classify: fine-tuning on labelled texts in TSV files, scored by macro-F1 and accuracy.

A part is a seed. Scores are of the test split if there is one, else of the development split.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sklearn.metrics import accuracy_score, f1_score

from pipeline.errors import DataError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.fine_tuning.fine_tuner import FineTuner, tokenize_texts
from pipeline.evaluation.fine_tuning.seeds import mean_and_deviation, score_numbers, seed_of, seed_units
from pipeline.evaluation.fine_tuning.text_files import find_file, read_header, read_table, require_file
from pipeline.evaluation.task import Measured, Settings, Summary, Task

LABEL_COLUMNS = ("label", "category", "class")  # the first that is there
TEXT_COLUMNS = ("headline", "title", "text", "body", "sentence")  # all that are there, in this order

_METRICS = ("macro_f1", "accuracy")


@dataclass(frozen=True)
class Split:
    """Labelled texts: `texts[i]` has the label `labels[i]`."""

    name: str
    texts: list[str]
    labels: list[str]


class Classification:
    """The task begun on an encoder."""

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Read all of it."""
        assert settings.data is not None
        assert settings.seeds is not None
        self.units = seed_units(settings.seeds)
        columns = _choose_columns(_train_file(settings.data))
        # Of all training examples, so that it does not depend on how many are used.
        self._labels = sorted(set(_read(_train_file(settings.data), columns, None, None).labels))
        if len(self._labels) < 2:
            raise DataError(
                f"{_train_file(settings.data)}: all examples have the {columns[0]} {self._labels[0]!r}; "
                "expected two or more different ones"
            )
        self._train = _read(_train_file(settings.data), columns, self._labels, settings.limit)
        self._scored = _read(_scored_file(settings.data), columns, self._labels, settings.limit)
        self._columns = columns
        self._tuner = FineTuner(encoder, settings, "text", len(self._labels))

    def measure(self, unit: str) -> Measured:
        """Fine-tune, and score."""
        train, scored = (
            tokenize_texts(
                self._tuner,
                [[text] for text in split.texts],
                [self._labels.index(label) for label in split.labels],
            )
            for split in (self._train, self._scored)
        )
        (logits,) = self._tuner.logits(train.features, [scored.features], seed_of(unit))
        predicted = [self._labels[index] for index in logits.argmax(axis=1)]
        counts = Counter(sorted(self._train.labels))
        most_frequent = counts.most_common(1)[0][0]
        return {
            **_scores(self._scored.labels, predicted),
            "baseline": _scores(self._scored.labels, [most_frequent] * len(predicted)),
            "split": self._scored.name,
            "num_classes": len(self._labels),
            "num_train": len(train.features),
            "num_examples": len(scored.features),
            "num_cut": train.num_cut + scored.num_cut,
            "max_length": self._tuner.max_length,
        }

    def summarize(self, measured: Mapping[str, Measured]) -> Summary:
        """A line per metric."""
        results = list(measured.values())
        first = results[0]
        scores = {metric: [result[metric] for result in results] for metric in _METRICS}
        rows = [
            [metric, *mean_and_deviation(values), first["baseline"][metric]]
            for metric, values in scores.items()
        ]
        label, *texts = self._columns
        notes = [
            f"  {first['num_examples']:,} examples of the {first['split']} split, {first['num_classes']} "
            f"classes; {first['num_train']:,} training examples; seeds: {len(results)}",
            f"  classes from column {label}, texts from {' and '.join(texts)}",
            "  constant: the most frequent class of the training examples, for all",
        ]
        if first["num_cut"]:
            notes.append(f"  {first['num_cut']:,} texts were cut to {first['max_length']} tokens")
        return Summary(score_numbers(scores), ["metric", "mean", "std", "constant"], rows, notes)


def _scores(true: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    return {
        "macro_f1": float(f1_score(true, predicted, average="macro")),
        "accuracy": float(accuracy_score(true, predicted)),
    }


def _sources(settings: Settings) -> dict[str, Sequence[Path]]:
    assert settings.data is not None
    return {"texts": [_train_file(settings.data), _scored_file(settings.data)]}


def _train_file(directory: Path) -> Path:
    return require_file(directory, ["train.tsv", "train.tsv.gz"])


def _scored_file(directory: Path) -> Path:
    test = find_file(directory, ["test.tsv", "test.tsv.gz"])
    return test or require_file(directory, ["dev.tsv", "dev.tsv.gz"])


def _choose_columns(path: Path) -> list[str]:
    """The label's column, and those of the texts."""
    header = read_header(path, "standard")
    labels = [name for name in LABEL_COLUMNS if name in header]
    texts = [name for name in TEXT_COLUMNS if name in header]
    for found, names, what in ((labels, LABEL_COLUMNS, "labels"), (texts, TEXT_COLUMNS, "texts")):
        if not found:
            raise DataError(
                f"{path}: no column of {what}; it has {', '.join(header)}, expected {' or '.join(names)}"
            )
    return [labels[0], *texts]


def _read(path: Path, columns: Sequence[str], known: Sequence[str] | None, limit: int | None) -> Split:
    """The first `limit` examples, or all; a DataError for a label that is not known, or without examples."""
    texts, labels = [], []
    for row in islice(read_table(path, columns, "standard"), limit):
        label, *parts = row.values
        if known is not None and label not in known:
            raise DataError(
                f"{path}, line {row.line}: {columns[0]} is {label!r}, which no training example has; "
                f"expected {', '.join(known)}"
            )
        texts.append("\n".join(parts))
        labels.append(label)
    if not texts:
        raise DataError(f"{path}: no example; expected rows with {', '.join(columns)}")
    return Split(path.name.split(".")[0], texts, labels)


TASK = Task(
    data=(
        "the directory with train.tsv and dev.tsv or test.tsv (or .tsv.gz), whose first line names a column "
        f"{', '.join(LABEL_COLUMNS[:-1])} or {LABEL_COLUMNS[-1]}, and {', '.join(TEXT_COLUMNS[:-1])} or "
        f"{TEXT_COLUMNS[-1]}"
    ),
    begin=Classification,
    sources=_sources,
    defaults={"seeds": 3, "epochs": 10.0, "learning_rate": 5e-5, "batch_size": 32, "max_length": 256},
    optional=["only", "limit"],
)
