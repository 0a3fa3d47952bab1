"""Reading and writing tokenizer directories: the same tokens, however files are written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_prep.__main__ import main
from data_prep.errors import DataError
from data_prep.files import sha256_file
from data_prep.format import read_manifest
from data_prep.tokenizing.coverage import Coverage
from data_prep.tokenizing.directory import SpecialIds, open_directory
from data_prep.tokenizing.second_reading import difference_to_transformers

CONFIG = "tokenizer_config.json"


@pytest.fixture
def copied(tokenizer_dir: Path, tmp_path: Path) -> Path:
    """A tokenizer directory that may be changed; <s>, <pad>, </s>, <unk>, <mask> are 0 to 4."""
    shutil.copytree(tokenizer_dir, tmp_path / "tok")
    return tmp_path / "tok"


@pytest.fixture
def edit(copied: Path) -> Callable[[str, Callable[[dict[str, Any]], object]], None]:
    """Change the object in one of its files in place."""

    def change(name: str, by: Callable[[dict[str, Any]], object]) -> None:
        content = json.loads((copied / name).read_text())
        by(content)
        (copied / name).write_text(json.dumps(content))

    return change


IDS = SpecialIds(cls=0, sep=2, pad=1, vocab_size=400)


# Special tokens


def test_tokens_named_in_the_configuration(copied: Path) -> None:
    config = {
        "cls_token": {"content": "<s>", "__type": "AddedToken"},
        "sep_token": "</s>",
        "pad_token": "<pad>",
    }
    (copied / CONFIG).write_text(json.dumps(config))
    assert open_directory(copied).row_ids() == IDS


def test_tokens_named_in_the_special_tokens_map(copied: Path) -> None:
    (copied / CONFIG).write_text("{}")
    named = {"cls_token": "<unk>", "sep_token": "</s>", "pad_token": {"content": "<pad>"}}
    (copied / "special_tokens_map.json").write_text(json.dumps(named))
    assert open_directory(copied).row_ids() == IDS._replace(cls=3)


def test_the_configuration_comes_before_the_map(copied: Path) -> None:
    (copied / CONFIG).write_text(json.dumps({"cls_token": "<s>"}))
    (copied / "special_tokens_map.json").write_text(json.dumps({"cls_token": "<unk>"}))
    assert open_directory(copied).row_ids() == IDS


def test_a_directory_with_nothing_but_tokenizer_json(copied: Path) -> None:
    """As RoBERTa's: cls and sep from the post-processor, the others by their conventional names."""
    (copied / CONFIG).unlink()
    directory = open_directory(copied)
    assert directory.row_ids() == IDS
    assert (directory.id_of("mask"), directory.id_of("unk")) == (4, 3)
    assert directory.special_ids == (0, 1, 2, 3, 4)


def test_two_conventions_in_one_vocabulary_are_told_apart_by_the_post_processor(copied: Path) -> None:
    (copied / CONFIG).unlink()
    tokenizer = Tokenizer.from_file(str(copied / "tokenizer.json"))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.save(str(copied / "tokenizer.json"))
    assert open_directory(copied).row_ids() == IDS._replace(vocab_size=402)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.save(str(copied / "tokenizer.json"))
    with pytest.raises(DataError, match=r"cls_token is not set .* the vocabulary has '\[CLS\]' and '<s>'"):
        open_directory(copied).row_ids()


def test_a_named_token_that_is_not_there(copied: Path) -> None:
    (copied / CONFIG).write_text(json.dumps({"sep_token": "[SEP]"}))
    with pytest.raises(DataError, match=r"tokenizer_config\.json: sep_token is '\[SEP\]', which is not in"):
        open_directory(copied)


@pytest.mark.parametrize(
    ("role", "other"),
    [
        *(("pad", "cls"), ("pad", "sep"), ("pad", "unk")),
        *(("mask", "pad"), ("mask", "cls"), ("mask", "sep"), ("mask", "unk")),
    ],
)
def test_one_token_for_two_roles_is_refused(
    copied: Path, edit: Callable[..., None], role: str, other: str
) -> None:
    edit(CONFIG, lambda config: config.update({f"{role}_token": config[f"{other}_token"]}))
    with pytest.raises(DataError, match=f"{role}_token and {other}_token are both"):
        open_directory(copied).row_ids()


@pytest.mark.parametrize("value", [5, ["<pad>"], {"x": 1}])
def test_a_value_that_is_no_token_is_refused(copied: Path, edit: Callable[..., None], value: object) -> None:
    edit(CONFIG, lambda config: config.update(cls_token=value))
    with pytest.raises(DataError, match=r"tokenizer_config\.json: cls_token is .*; write a token"):
        open_directory(copied)


def test_padding_that_is_not_in_the_vocabulary_hides_no_other(
    copied: Path, edit: Callable[..., None]
) -> None:
    (copied / CONFIG).unlink()
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 9}
    padding |= {"pad_type_id": 0, "pad_token": "[PAD]"}
    edit("tokenizer.json", lambda content: content.update(padding=padding))
    assert open_directory(copied).row_ids() == IDS


def test_a_token_with_a_role_is_special_whatever_the_file_says(
    copied: Path, edit: Callable[..., None], tmp_path: Path
) -> None:
    """As in transformers; else it would be found in texts by one and not by the other."""

    def ordinary(content: dict[str, Any]) -> None:
        for token in content["added_tokens"]:
            token["special"] = False

    before = open_directory(copied)
    edit("tokenizer.json", ordinary)
    directory = open_directory(copied)
    assert directory.content_sha256() == before.content_sha256()
    text = "karo <mask> </s>miten"
    assert directory.tokenizer.encode(text).ids == before.tokenizer.encode(text).ids
    directory.write(tmp_path / "written")
    auto = AutoTokenizer.from_pretrained(tmp_path / "written", split_special_tokens=True)
    assert auto(text)["input_ids"] == before.tokenizer.encode(text).ids


# What cannot be a tokenizer


@pytest.mark.parametrize("name", [CONFIG, "special_tokens_map.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_files_are_named(copied: Path, name: str, content: str) -> None:
    (copied / name).write_text(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        open_directory(copied)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer\.json; make one"):
        open_directory(tmp_path)


def test_dropout_is_refused(copied: Path, edit: Callable[..., None]) -> None:
    edit("tokenizer.json", lambda content: content["model"].update(dropout=0.1))
    with pytest.raises(DataError, match="its model has dropout"):
        open_directory(copied)


def test_two_tokens_with_one_id_are_refused(copied: Path, edit: Callable[..., None]) -> None:
    edit("tokenizer.json", lambda content: content["model"]["vocab"].update(karokaro=7))
    with pytest.raises(DataError, match=r"and 'karokaro' both have the id 7"):
        open_directory(copied)


def test_a_panic_of_the_library_is_told(copied: Path, edit: Callable[..., None]) -> None:
    wrong = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
    wrong["single"] = [{"Sequence": {"id": "B", "type_id": 0}}]  # there is no second text
    edit("tokenizer.json", lambda content: content.update(post_processor=wrong))
    with pytest.raises(DataError, match=r"tokenizer\.json: its post-processor fails"):
        open_directory(copied)


@pytest.mark.parametrize("length", ["512", True, 0, -1, 2])
def test_a_longest_text_that_is_none_is_refused(
    copied: Path, edit: Callable[..., None], length: object
) -> None:
    edit(CONFIG, lambda config: config.update(model_max_length=length))
    with pytest.raises(DataError, match=r"model_max_length is .*; write a number of tokens, 3 or more"):
        open_directory(copied).write(copied.with_name("other"))


def save(tokenizer: Tokenizer, path: Path) -> Path:
    path.mkdir()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def test_a_tokenizer_that_fails_on_unknown_words_is_refused(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2, "a": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(DataError, match=r"fails on text with words that it does not know .*\[UNK\]"):
        open_directory(save(words, tmp_path / "words"))


def test_dropped_characters_are_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    letters = Tokenizer(models.BPE())
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    letters.train_from_iterator(["the farmer sees a letter"], trainer)
    (tmp_path / "docs.txt").write_text("the farmer sees \u017dlut\u00fd")
    arguments = ["shard", str(tmp_path / "docs.txt"), "--tokenizer", str(save(letters, tmp_path / "bpe"))]
    out = tmp_path / "out"
    assert (
        main([*arguments, "--out", str(out), "--length", "16", "--valid-fraction", "0", "--workers", "1"])
        == 0
    )
    assert (
        "dropped 3 characters (14.29%)" in capsys.readouterr().err
    )  # the u is not in the vocabulary, either
    manifest = read_manifest(out)
    assert (manifest.characters, manifest.dropped_characters) == (21, 3)
    assert main(["inspect", str(out)]) == 0
    assert "14.286% of the characters dropped" in capsys.readouterr().out


def test_a_byte_level_model_without_its_whole_alphabet_drops_bytes(tmp_path: Path) -> None:
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["the farmer sees \u00e9"], trainer)
    coverage = Coverage(tokenizer)
    assert not coverage.is_complete
    assert coverage.num_dropped(["\u00e9 \u00e8", "the z"]) == 2  # the second byte of one, and a letter
    assert Coverage(open_directory(save(with_alphabet(), tmp_path / "whole")).tokenizer).is_complete


def with_alphabet() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the farmer"], trainer)
    return tokenizer


def test_special_tokens_that_a_unigram_model_finds_in_texts_are_taken_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(["the farmer sees a letter and a map"], trainer)
    (tmp_path / "docs.txt").write_text("the <mask> farmer </s> sees <pad>a map")
    source = save(tokenizer, tmp_path / "unigram")
    arguments = ["shard", str(tmp_path / "docs.txt"), "--tokenizer", str(source), "--length", "64"]
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out), "--valid-fraction", "0", "--workers", "1"]) == 0
    assert "found 3 of its cls, sep, pad or mask tokens in the texts" in capsys.readouterr().err
    assert read_manifest(out).removed_tokens == 3


# Writing, and the frame of a text


def test_transformers_reads_what_was_written(copied: Path, tmp_path: Path) -> None:
    """Whatever class was named, and although its vocabulary files are not there any more."""
    config = json.loads((copied / CONFIG).read_text()) | {"tokenizer_class": "BertTokenizer"}
    (copied / CONFIG).write_text(json.dumps({**config, "padding_side": "left", "name_or_path": "/home/me"}))
    (copied / "vocab.txt").write_text("of another tokenizer")
    directory = open_directory(copied)
    directory.write(tmp_path / "written", model_max_length=77)
    assert sorted(path.name for path in (tmp_path / "written").iterdir()) == ["tokenizer.json", CONFIG]
    assert sha256_file(tmp_path / "written" / "tokenizer.json") == sha256_file(copied / "tokenizer.json")
    auto = AutoTokenizer.from_pretrained(tmp_path / "written")
    assert (auto.padding_side, auto.model_max_length, auto.cls_token_id) == ("right", 77, 0)
    text = "Karo <s> miten"
    assert auto(text, split_special_tokens=True)["input_ids"] == directory.tokenizer.encode(text).ids
    assert "/home" not in (tmp_path / "written" / CONFIG).read_text()


def test_texts_are_framed_like_rows(copied: Path, edit: Callable[..., None], tmp_path: Path) -> None:
    assert open_directory(copied).framed() is not None
    assert open_directory(copied).framed().content == (copied / "tokenizer.json").read_text()
    edit("tokenizer.json", lambda content: content.update(post_processor=None))
    bare = open_directory(copied)
    framed = bare.framed()
    assert bare.tokenizer.encode("karo").ids == framed.tokenizer.encode("karo").ids[1:-1]
    framed.write(tmp_path / "written")
    auto = AutoTokenizer.from_pretrained(tmp_path / "written")
    inside = bare.tokenizer.encode("karo").ids
    assert auto("karo")["input_ids"] == [0, *inside, 2]
    assert auto("karo", "karo")["input_ids"] == [0, *inside, 2, *inside, 2]
    assert framed.content_sha256() == bare.content_sha256()


@pytest.mark.parametrize("name", ["$A", "$0", "$B:1", "x:1", "<|im:start|>", "a b"])
def test_a_frame_of_tokens_with_any_name(copied: Path, edit: Callable[..., None], name: str) -> None:
    token = {"id": 400, "content": name, "single_word": False, "lstrip": False, "rstrip": False}
    token |= {"normalized": False, "special": True}

    def change(content: dict[str, Any]) -> None:
        content["added_tokens"].append(token)
        content["post_processor"] = None

    edit("tokenizer.json", change)
    edit(CONFIG, lambda config: config.update(cls_token=name))
    framed = open_directory(copied).framed()
    inside = framed.tokenizer.encode("karo", add_special_tokens=False).ids
    assert framed.tokenizer.encode("karo").ids == [400, *inside, 2]


def test_a_frame_keeps_the_offsets_of_byte_level_tokens(copied: Path, edit: Callable[..., None]) -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    edit("tokenizer.json", lambda content: content.update(post_processor=byte_level))
    bare = open_directory(copied)
    expected = bare.tokenizer.encode("karo miten").offsets
    assert bare.framed().tokenizer.encode("karo miten").offsets[1:-1] == expected


# Identity


def test_a_tokenizer_saved_anew_is_the_same(copied: Path, tmp_path: Path) -> None:
    recorded = open_directory(copied).content_sha256()
    PreTrainedTokenizerFast.from_pretrained(copied).save_pretrained(tmp_path / "anew")
    anew = open_directory(tmp_path / "anew")
    assert sha256_file(tmp_path / "anew" / "tokenizer.json") != sha256_file(copied / "tokenizer.json")
    assert anew.content_sha256() == recorded
    assert anew.is_recorded(recorded)
    assert open_directory(copied).is_recorded(sha256_file(copied / "tokenizer.json"))  # of earlier versions


def test_a_manifest_with_the_hash_of_bytes_is_compared_by_the_file_beside_it(
    copied: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """As earlier versions wrote it."""
    recorded = sha256_file(tokenizer_dir / "tokenizer.json")
    PreTrainedTokenizerFast.from_pretrained(copied).save_pretrained(tmp_path / "anew")
    anew = open_directory(tmp_path / "anew")
    assert not anew.is_recorded(recorded)
    assert anew.is_that_of(recorded, tokenizer_dir)
    content = (copied / "tokenizer.json").read_text()
    changed = content.replace('"add_prefix_space": false', '"add_prefix_space": true')
    (copied / "tokenizer.json").write_text(changed)
    assert not open_directory(copied).is_that_of(recorded, tokenizer_dir)


def lower(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "Lowercase"}


def prefix(content: dict[str, Any]) -> None:
    content["pre_tokenizer"]["add_prefix_space"] = True


def swap(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def exchange(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[10:12]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


def add(content: dict[str, Any]) -> None:
    token = {"id": 400, "content": "karo", "single_word": True, "lstrip": False, "rstrip": False}
    content["added_tokens"].append({**token, "normalized": False, "special": False})


@pytest.mark.parametrize("change", [lower, prefix, swap, exchange, add])
def test_what_changes_tokens_changes_the_identity(
    copied: Path, edit: Callable[..., None], change: Callable[[dict[str, Any]], None]
) -> None:
    recorded = open_directory(copied).content_sha256()
    edit("tokenizer.json", change)
    assert not open_directory(copied).is_recorded(recorded)


def test_truncation_and_padding_do_not(copied: Path) -> None:
    recorded = open_directory(copied).content_sha256()
    tokenizer = Tokenizer.from_file(str(copied / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(direction="left", length=16, pad_token="<pad>", pad_id=1)
    tokenizer.save(str(copied / "tokenizer.json"))
    directory = open_directory(copied)
    assert directory.is_recorded(recorded)
    assert len(directory.tokenizer.encode("karo " * 20).ids) > 16


# The reading of transformers


def test_a_class_that_rebuilds_the_tokenizer_is_told(
    copied: Path, documents_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert difference_to_transformers(open_directory(copied)) is None
    config = json.loads((copied / CONFIG).read_text())
    (copied / CONFIG).write_text(json.dumps({**config, "tokenizer_class": "BertTokenizer"}))
    out = tmp_path / "out"
    arguments = [
        "shard",
        str(documents_file),
        "--tokenizer",
        str(copied),
        "--out",
        str(out),
        "--length",
        "32",
    ]
    assert main([*arguments, "--workers", "1"]) == 0
    assert 'opens it as BertTokenizer, which reads "Hello, World!' in capsys.readouterr().err
    assert difference_to_transformers(open_directory(out / "tokenizer")) is None
