"""Directories that others made: what is damaged or unusual is told once, whatever the libraries raise."""

import json
import os
import time

import pytest
import torch
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from pipeline.errors import UsageError, UserError
from pipeline.evaluation.encoder import Encoder
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.minimal_pairs import paradigm_files
from pipeline.export import delete_unused, mark_used
from tests.pipeline.evaluation.conftest import LONGEST_INPUT
from tests.pipeline.evaluation.toy_texts import write_sst2


def reopened(encoder):
    return Encoder.open(str(encoder.path), torch.device("cpu"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", b'{"version": "1.0", "trunc', "not a tokenizer"),
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("config.json", b'{"model_type": "nonsense"}', "cannot be opened as"),
        ("config.json", b'{"model_t', "cannot be opened as"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}", "cannot be opened as AutoModel"),
    ],
)
def test_damaged_files_are_told_once(tiny_encoder, tmp_path, file, content, message):
    path = tiny_encoder().path
    (path / file).write_bytes(content)
    write_sst2(tmp_path, num_train=8, num_dev=8)
    with pytest.raises(UserError, match=message) as raised:
        evaluate(str(path), "glue", {"data": tmp_path, "seeds": 1})
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_configuration_without_a_longest_input_is_told(tiny_encoder):
    encoder = tiny_encoder()
    (encoder.path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UsageError, match="cannot be opened as a model with a longest input"):
        reopened(encoder).longest_input()


def test_longest_input_is_the_least_of_what_is_asked_and_what_can_be(tiny_encoder):
    encoder = tiny_encoder()
    assert [encoder.longest_input(asked) for asked in (None, 1000, 10)] == [LONGEST_INPUT, LONGEST_INPUT, 10]
    settings_file = encoder.path / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text())
    settings_file.write_text(json.dumps({**settings, "model_max_length": 20}))
    assert reopened(encoder).longest_input(1000) == 20


def test_opening_is_quiet_and_leaves_the_progress_bar_as_it_was(tiny_encoder, capfd):
    encoder = tiny_encoder("bert", "wordpiece")
    transformers_logging.enable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    capfd.readouterr()
    encoder.open_model(AutoModel)
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled()
    assert transformers_logging.get_verbosity() == verbosity


def test_exports_are_deleted_when_unused_for_a_day_only(tmp_path):
    for name in ("model-old", "model-new", "model-used", ".model-killed.partial", "other"):
        (tmp_path / name).mkdir()
        if name != "model-new":
            os.utime(tmp_path / name, (0, time.time() - 25 * 3600))
    mark_used(tmp_path / "model-used")
    for pattern in ("model-*", ".model-*.partial"):
        delete_unused(tmp_path, pattern)
    assert {path.name for path in tmp_path.iterdir()} == {"model-new", "model-used", "other"}


def test_paradigms_are_files_of_a_directory(tmp_path):
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(UsageError, match="is a file; name the directory it lies in"):
        paradigm_files(tmp_path / "b.jsonl")
    assert paradigm_files(tmp_path) == [tmp_path / "b.jsonl"]
