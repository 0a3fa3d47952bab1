"""The data sets of GLUE (Wang et al. 2019): which file and column holds what, and what they are scored by.

Files are as the benchmark distributes them, in a directory per data set: tab-separated, without quoting.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from pipeline.errors import DataError
from pipeline.evaluation.fine_tuning.text_files import Row, read_table, require_file

Metric = Callable[[np.ndarray, np.ndarray], float]  # of (true, predicted) labels or numbers

_HIGHEST_SIMILARITY = 5.0


def pearson(true: np.ndarray, predicted: np.ndarray) -> float:
    """Pearson's correlation; 0 where one side does not vary, for it predicts nothing then."""
    return _correlation(pearsonr, true, predicted)


def spearman(true: np.ndarray, predicted: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one side does not vary."""
    return _correlation(spearmanr, true, predicted)


@dataclass(frozen=True)
class DataSet:
    """One of GLUE's.

    Attributes:
        name: of its directory.
        sentences: columns of the one or two texts.
        label: column of the label.
        metrics: GLUE's, by name.
        labels: what stands in the label column, in the order of their numbers; None for a similarity
            between 0 and 5.
        header: all columns, where the files have no line that names them.
        dev: files to score on, by a word that tells them apart.
        leave_out_broken: pass over rows with another number of fields.
    """

    name: str
    sentences: Sequence[str]
    label: str
    metrics: Mapping[str, Metric]
    labels: Sequence[str] | None = ("0", "1")
    header: Sequence[str] | None = None
    dev: Mapping[str, str] = field(default_factory=lambda: {"": "dev.tsv"})
    leave_out_broken: bool = False

    @property
    def num_labels(self) -> int:
        """1 for a number."""
        return 1 if self.labels is None else len(self.labels)


_PAIR = ("sentence1", "sentence2")
_ACCURACY = {"accuracy": accuracy_score}
_F1_AND_ACCURACY = {"f1": f1_score, "accuracy": accuracy_score}

DATA_SETS = (
    DataSet(
        "CoLA",
        ["sentence"],
        "label",
        {"matthews": matthews_corrcoef},
        header=["source", "label", "mark", "sentence"],
    ),
    DataSet("SST-2", ["sentence"], "label", _ACCURACY),
    DataSet("MRPC", ["#1 String", "#2 String"], "Quality", _F1_AND_ACCURACY),
    DataSet("STS-B", _PAIR, "score", {"pearson": pearson, "spearman": spearman}, labels=None),
    # Some questions in QQP hold a line end, which breaks their row; GLUE's loaders leave those out.
    DataSet("QQP", ["question1", "question2"], "is_duplicate", _F1_AND_ACCURACY, leave_out_broken=True),
    DataSet(
        "MNLI",
        _PAIR,
        "gold_label",
        _ACCURACY,
        labels=("contradiction", "entailment", "neutral"),
        dev={"matched": "dev_matched.tsv", "mismatched": "dev_mismatched.tsv"},
    ),
    DataSet("QNLI", ["question", "sentence"], "label", _ACCURACY, labels=("entailment", "not_entailment")),
    DataSet("RTE", _PAIR, "label", _ACCURACY, labels=("entailment", "not_entailment")),
    DataSet("WNLI", _PAIR, "label", _ACCURACY),
)


@dataclass(frozen=True)
class Examples:
    """Texts and labels of one split.

    Attributes:
        texts: one or two of each example.
        labels: numbers of the classes, or similarities.
    """

    texts: list[list[str]]
    labels: list[int] | list[float]


@dataclass(frozen=True)
class Splits:
    """Examples to train on, and those to score on by the word that tells them apart."""

    train: Examples
    dev: dict[str, Examples]


def present(directory: Path) -> list[DataSet]:
    """The data sets that have a directory there; a DataError if there is none."""
    found = [data_set for data_set in DATA_SETS if (directory / data_set.name).is_dir()]
    if not found:
        names = ", ".join(data_set.name for data_set in DATA_SETS)
        raise DataError(
            f"{directory} holds no GLUE data set; expected a directory with one or more of {names} in it"
        )
    return found


def files_of(directory: Path, data_set: DataSet) -> list[Path]:
    """What `read_splits` reads; a DataError if one is missing."""
    return [require_file(directory / data_set.name, [name]) for name in ("train.tsv", *data_set.dev.values())]


def read_splits(directory: Path, data_set: DataSet, limit: int | None) -> Splits:
    """The first `limit` examples of each split, or all.

    Raises:
        DataError: A file or column is missing, a label is none of the data set's, or there is no example.
    """
    train = _read(directory / data_set.name, "train.tsv", data_set, limit)
    dev = {
        word: _read(directory / data_set.name, file, data_set, limit) for word, file in data_set.dev.items()
    }
    return Splits(train, dev)


def _read(directory: Path, name: str, data_set: DataSet, limit: int | None) -> Examples:
    path = require_file(directory, [name])
    texts, labels = [], []
    columns = [*data_set.sentences, data_set.label]
    for row in read_table(path, columns, "none", data_set.header, data_set.leave_out_broken):
        texts.append(row.values[:-1])
        labels.append(_label(path, row, data_set))
        if len(labels) == limit:
            break
    if not labels:
        raise DataError(f"{path}: no example; expected rows with {', '.join(columns)}")
    return Examples(texts, labels)


def _label(path: Path, row: Row, data_set: DataSet) -> int | float:
    value = row.values[-1]
    if data_set.labels is None:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if 0 <= number <= _HIGHEST_SIMILARITY:
            return number
        expected = f"a number from 0 to {_HIGHEST_SIMILARITY:g}"
    elif value in data_set.labels:
        return data_set.labels.index(value)
    else:
        expected = " or ".join(data_set.labels)
    raise DataError(f"{path}, line {row.line}: {data_set.label} is {value!r}; expected {expected}")


def _correlation(
    measure: Callable[..., tuple[float, float]], true: np.ndarray, predicted: np.ndarray
) -> float:
    if len(true) < 2 or np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(measure(true, predicted)[0])
