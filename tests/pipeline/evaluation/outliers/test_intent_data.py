"""CLINC150's layout, what --limit takes of it, and what is told of files that are wrong."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DataError, UsageError
from pipeline.evaluation.outliers.intent_data import read_intent_data


def content() -> dict[str, Any]:
    """Sorted by intent, as CLINC150 is."""
    sizes = {"train": 5, "val": 2, "test": 3}
    in_scope = {
        split: [
            [f"{split} {intent} {place}", intent]
            for intent in ("pay", "call", "ask")
            for place in range(size)
        ]
        for split, size in sizes.items()
    }
    return in_scope | {
        split: [[f"{split} {place}", "oos"] for place in range(4)]
        for split in ("oos_train", "oos_val", "oos_test")
    }


def write(directory: Path, data: Any) -> Path:
    (directory / "data_full.json").write_text(json.dumps(data), encoding="utf-8")
    return directory


def test_everything_is_read(tmp_path):
    data = read_intent_data(write(tmp_path, content()), None)
    assert data.intents == ["pay", "call", "ask"]
    assert data.train.queries[5] == "train call 0"
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert (len(data.val.queries), len(data.test.queries)) == (6, 9)
    assert data.oos_train == [f"oos_train {place}" for place in range(4)]
    assert data.oos_test[0] == "oos_test 0"


def test_limit_takes_as_many_of_every_intent(tmp_path):
    data = read_intent_data(write(tmp_path, content()), 7)
    assert data.train.queries[:4] == ["train pay 0", "train call 0", "train ask 0", "train pay 1"]
    assert Counter(data.train.labels.tolist()) == {0: 3, 1: 2, 2: 2}
    assert len(data.val.queries) == 6  # all there are
    assert len(data.test.queries) == 7
    assert len(data.oos_test) == 4


def test_order_of_intents_is_that_of_training(tmp_path):
    shuffled = content()
    shuffled["test"].reverse()
    data = read_intent_data(write(tmp_path, shuffled), None)
    assert data.test.queries[0] == "test ask 2"
    assert data.test.labels[0] == 2


def without(key: str) -> dict[str, Any]:
    return {name: rows for name, rows in content().items() if name != key}


def in_training(*intents: str) -> dict[str, Any]:
    return content() | {"train": [["a query", intent] for intent in intents]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"data_full\.json holds a list, not an object"),
        (without("oos_test"), r"data_full\.json has no 'oos_test'; it must hold train, val, test"),
        (content() | {"val": []}, r"data_full\.json, key 'val': not a list with at least one"),
        (content() | {"oos_train": "x"}, r"key 'oos_train': not a list with at least one"),
        (content() | {"val": [["a", "pay"], ["b"]]}, r"key 'val', entry 1: \[\"b\"\] is not \[query, intent"),
        (content() | {"oos_test": [["a", None]]}, r"key 'oos_test', entry 0: \[\"a\", null\] is not"),
        (content() | {"test": [["a", "sing"]]}, r"'test', entry 0: intent 'sing' does not occur in 'train'"),
        (in_training("pay", "pay", "call", "ask", "ask"), r"'train': intent 'call' has 1 queries; each must"),
    ],
)
def test_wrong_content_is_told_with_file_and_key(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        read_intent_data(write(tmp_path, data), None)


def test_a_single_intent_is_too_few(tmp_path):
    data = in_training("pay", "pay") | {"val": [["a", "pay"]], "test": [["a", "pay"]]}
    with pytest.raises(DataError, match="key 'train': 'pay' is the only intent; there must be two"):
        read_intent_data(write(tmp_path, data), None)


def test_file_that_is_missing_or_cut_short(tmp_path):
    with pytest.raises(DataError, match=r"data_full\.json does not exist; --data takes CLINC150's"):
        read_intent_data(tmp_path, None)
    (tmp_path / "data_full.json").write_text('{"train": [["a",')
    with pytest.raises(DataError, match=r"data_full\.json is no JSON: .*line 1 column 17"):
        read_intent_data(tmp_path, None)
    (tmp_path / "data_full.json").write_bytes(b'{"train": "\xff"}')
    with pytest.raises(DataError, match=r"data_full\.json is no JSON: .*utf-8"):
        read_intent_data(tmp_path, None)


def test_limit_that_leaves_too_little(tmp_path):
    with pytest.raises(
        UsageError, match="--limit 5 leaves 1 training queries of intent 'ask'; 3 intents need --limit 6"
    ):
        read_intent_data(write(tmp_path, content()), 5)
    assert len(read_intent_data(tmp_path, 6).train.queries) == 6


def test_published_counts(shared_data):
    data = read_intent_data(shared_data("clinc150"), None)
    assert len(data.intents) == 150
    assert [len(split.queries) for split in (data.train, data.val, data.test)] == [15_000, 3_000, 4_500]
    assert (len(data.oos_train), len(data.oos_test)) == (100, 1_000)
    assert np.bincount(data.test.labels).tolist() == [30] * 150
    limited = read_intent_data(shared_data("clinc150"), 600)
    assert np.bincount(limited.train.labels).tolist() == [4] * 150
