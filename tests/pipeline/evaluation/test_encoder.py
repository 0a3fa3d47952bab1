"""Directories that others made: what is damaged or unusual is told once, whatever the libraries raise."""

import json
import os
import time

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from data_prep.tokenizing.directory import open_directory
from pipeline.data.corpus import vocabulary_of
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
    with pytest.raises(UsageError, match="this t5 model has no longest input"):
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


# What people bring


def save_tiny(path, family, tokenizer_dir, **config):
    """A small random encoder of any family, with a tokenizer beside it."""
    vocabulary = vocabulary_of(open_directory(tokenizer_dir))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    settings = {
        "vocab_size": vocabulary.size,
        "pad_token_id": vocabulary.pad_id,
        "max_position_embeddings": 130,
    }
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **{**sizes, **settings, **config}))
    model.save_pretrained(path)
    open_directory(tokenizer_dir).write(path)
    return Encoder.open(str(path), torch.device("cpu"))


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("family", ["mpnet", "deberta-v2", "electra", "distilbert"])
def test_a_family_without_fused_attention_is_opened(family, tiny_tokenizer, tmp_path):
    encoder = save_tiny(tmp_path, family, tiny_tokenizer)
    assert encoder.pretrained_model().config.model_type == family


def test_a_model_that_mixes_padding_in_is_refused(tiny_tokenizer, tmp_path):
    encoder = save_tiny(tmp_path, "fnet", tiny_tokenizer)
    with pytest.raises(UsageError, match="padding changes what a fnet model makes of a text"):
        encoder.pretrained_model()


def test_a_model_without_a_longest_input_is_refused(tiny_tokenizer, tmp_path):
    sizes = {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1]}
    vocabulary = vocabulary_of(open_directory(tiny_tokenizer))
    config = AutoConfig.for_model("funnel", vocab_size=vocabulary.size, num_decoder_layers=1, **sizes)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    open_directory(tiny_tokenizer).write(tmp_path)
    with pytest.raises(UsageError, match="this funnel model has no longest input"):
        Encoder.open(str(tmp_path), torch.device("cpu")).longest_input()


def test_more_tokens_than_embeddings_are_told(tiny_encoder):
    encoder = tiny_encoder()
    tokenizer = AutoTokenizer.from_pretrained(encoder.path)
    tokenizer.add_tokens([f"<new {number}>" for number in range(64)])  # embeddings are padded to 64
    tokenizer.save_pretrained(encoder.path)
    with pytest.raises(UsageError, match=r"the tokenizer has 664 tokens, the model 640 embeddings"):
        reopened(encoder).pretrained_model()


def test_texts_are_padded_and_cut_at_their_end_whatever_the_directory_says(tiny_encoder):
    encoder = tiny_encoder()
    change_json(encoder.path / "tokenizer_config.json", padding_side="left", truncation_side="left")
    tokenizer = reopened(encoder).padding_tokenizer()
    ids = tokenizer(["one", "one two three four"], padding=True)["input_ids"]
    assert ids[0][0] == tokenizer.cls_token_id
    assert ids[0][-1] == tokenizer.pad_token_id
    cut = tokenizer("one two three four", truncation=True, max_length=4)["input_ids"]
    assert cut[:-1] == ids[1][:3]


def test_the_padding_token_of_the_model_is_used_where_the_tokenizer_names_none(tiny_encoder):
    encoder = tiny_encoder()
    content = (encoder.path / "tokenizer.json").read_text().replace("<pad>", "<gone>")
    (encoder.path / "tokenizer.json").write_text(content)
    change_json(encoder.path / "tokenizer_config.json", pad_token=None)
    assert reopened(encoder).padding_tokenizer().pad_token_id == 1
    change_json(encoder.path / "config.json", pad_token_id=None)
    with pytest.raises(UsageError, match="names a padding token of the vocabulary, which batches need"):
        reopened(encoder).padding_tokenizer()


def test_a_tokenizer_that_transformers_opens_otherwise_is_told(tiny_encoder, caplog):
    encoder = tiny_encoder()
    change_json(encoder.path / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    expected = open_directory(encoder.path).tokenizer.encode("One two").ids
    assert reopened(encoder).tokenizer("One two")["input_ids"] == expected
    assert "transformers would open the directory otherwise" in caplog.text


def test_code_of_the_directory_is_never_run(tiny_encoder, capfd):
    encoder = tiny_encoder()
    auto_map = {"AutoConfig": "configuration_mine.C", "AutoModelForMaskedLM": "configuration_mine.M"}
    change_json(encoder.path / "config.json", model_type="mine", auto_map=auto_map)
    (encoder.path / "configuration_mine.py").write_text("print('RUN')")
    with pytest.raises(UsageError, match="can only be opened by code of its own"):
        reopened(encoder).pretrained_model()
    assert "RUN" not in capfd.readouterr().out


def test_files_that_the_class_does_not_read_are_no_tokenizer(tiny_encoder):
    """transformers makes a tokenizer of special tokens alone, which finds no word in any text."""
    encoder = tiny_encoder("roberta")
    (encoder.path / "tokenizer.json").unlink()
    (encoder.path / "tokenizer_config.json").unlink()
    (encoder.path / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    with pytest.raises(UsageError, match="opened as RobertaTokenizer, knows no word of"):
        _ = reopened(encoder).tokenizer


def test_a_tokenizer_that_frames_no_text_is_told(tiny_encoder, caplog):
    encoder = tiny_encoder()
    change_json(encoder.path / "tokenizer.json", post_processor=None)
    assert reopened(encoder).tokenizer("One")["input_ids"][0] != 0
    assert "does not put <s> in front of a text" in caplog.text


@pytest.mark.parametrize("length", ["20", -1, True])
def test_a_longest_text_that_is_none_is_told(tiny_encoder, length):
    encoder = tiny_encoder()
    change_json(encoder.path / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: model_max_length is"):
        reopened(encoder).longest_input()
