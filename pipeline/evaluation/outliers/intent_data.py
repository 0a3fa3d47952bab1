"""Queries with intents, and queries out of scope, in CLINC150's layout (Larson et al. 2019).

    {"train": [["how do you say fly in italian", "translate"], ...], "val": ..., "test": ...,
     "oos_train": [["how big is the sun", "oos"], ...], "oos_test": ...}

is the content of data_full.json. Its "oos_val" is not read.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError, UsageError
from pipeline.evaluation.outliers.arrays import IntArray

FILE_NAME = "data_full.json"
_IN_SCOPE = ("train", "val", "test")
_OUT_OF_SCOPE = ("oos_train", "oos_test")
_MIN_PER_INTENT = 2  # a single example has no spread around its mean

Rows = list[tuple[str, str]]  # query, intent


@dataclass(frozen=True)
class Split:
    """Queries in scope and their intents, as places in `IntentData.intents`, (N,)."""

    queries: list[str]
    labels: IntArray


@dataclass(frozen=True)
class IntentData:
    """What the detection of out-of-scope queries is measured on.

    Attributes:
        intents: their names, in the order of the training queries.
        train: training queries.
        val: held-out queries, none of which is trained on or scored.
        test: scored queries in scope.
        oos_train: out-of-scope queries that may be shown to a detector.
        oos_test: scored queries out of scope.
    """

    intents: list[str]
    train: Split
    val: Split
    test: Split
    oos_train: list[str]
    oos_test: list[str]


def find_intent_file(path: Path) -> Path:
    """The file itself, or data_full.json in a directory; a DataError if there is none."""
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file} does not exist; --data takes CLINC150's {FILE_NAME} or its directory")
    return file


def read_intent_data(path: Path, limit: int | None) -> IntentData:
    """Read data_full.json.

    Args:
        path: the file or its directory.
        limit: queries of each split; None for all. Those in scope are the first of every intent, then the
            second of every intent and so on; those out of scope are the first ones.

    Raises:
        DataError: the file is missing or not of this form.
        UsageError: the limit leaves intents with too few queries.
    """
    path = find_intent_file(path)
    content = _read_object(path)
    if absent := [key for key in (*_IN_SCOPE, *_OUT_OF_SCOPE) if key not in content]:
        raise DataError(
            f"{path} has no {', '.join(map(repr, absent))}; it must hold {', '.join(_IN_SCOPE)} and "
            f"{', '.join(_OUT_OF_SCOPE)}, each a list of [query, intent]"
        )
    in_scope = {key: _rows(path, key, content[key]) for key in _IN_SCOPE}
    out_of_scope = {key: _rows(path, key, content[key])[:limit] for key in _OUT_OF_SCOPE}
    intents = list(dict.fromkeys(intent for _, intent in in_scope["train"]))
    splits = {key: _split(path, key, rows, intents, limit) for key, rows in in_scope.items()}
    _check_training(path, splits["train"], intents, limit)
    queries = {key: [query for query, _ in rows] for key, rows in out_of_scope.items()}
    return IntentData(intents, **splits, **queries)  # type: ignore[arg-type]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not an object with the key 'train'")
    return content


def _rows(path: Path, key: str, value: Any) -> Rows:
    if not isinstance(value, list) or not value:
        raise DataError(f"{path}, key {key!r}: not a list with at least one [query, intent]")
    for place, row in enumerate(value):
        if not (isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row)):
            raise DataError(
                f"{path}, key {key!r}, entry {place}: {json.dumps(row)[:60]} is not [query, intent]; "
                "write two strings"
            )
    return [(query, intent) for query, intent in value]


def _split(path: Path, key: str, rows: Rows, intents: Sequence[str], limit: int | None) -> Split:
    by_intent: dict[str, Rows] = defaultdict(list)
    for place, (query, intent) in enumerate(rows):
        if intent not in intents:
            raise DataError(
                f"{path}, key {key!r}, entry {place}: intent {intent!r} does not occur in 'train'; "
                "queries out of scope belong to 'oos_train' and 'oos_test'"
            )
        by_intent[intent].append((query, intent))
    if limit is not None:
        # The first of every intent, then the second of every intent, ...
        turns = zip_longest(*(by_intent[intent] for intent in intents))
        rows = [row for row in chain.from_iterable(turns) if row is not None][:limit]
    labels = np.array([intents.index(intent) for _, intent in rows], np.int64)
    return Split([query for query, _ in rows], labels)


def _check_training(path: Path, train: Split, intents: Sequence[str], limit: int | None) -> None:
    if len(intents) < 2:
        raise DataError(f"{path}, key 'train': {intents[0]!r} is the only intent; there must be two")
    counts = np.bincount(train.labels, minlength=len(intents))
    if counts.min() >= _MIN_PER_INTENT:
        return
    rarest = intents[int(counts.argmin())]
    if limit is not None and limit < _MIN_PER_INTENT * len(intents):
        raise UsageError(
            f"--limit {limit} leaves {int(counts.min())} training queries of intent {rarest!r}; "
            f"{len(intents)} intents need --limit {_MIN_PER_INTENT * len(intents)} or more"
        )
    raise DataError(
        f"{path}, key 'train': intent {rarest!r} has {int(counts.min())} queries; "
        f"each must have {_MIN_PER_INTENT}"
    )
