"""Tokenizers of every kind: the same ids in shards, training, evaluation and exports, or a refusal."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM, AutoTokenizer

from data_prep.cleaning.normalize import clean_text
from data_prep.format import TOKENIZER_NAME, read_manifest
from data_prep.tokenizing.directory import TokenizerDirectory, open_directory
from data_prep.tokenizing.stretches import Stretches
from pipeline.__main__ import main
from pipeline.data.corpus import CorpusSplit
from pipeline.evaluation.encoder import Encoder
from pipeline.tokenizer import first_difference, transformers_tokenizer
from tests.conftest import TINY_RECIPE
from tests.e2e.running import train
from tests.tokenizers.conftest import Prepared
from tests.tokenizers.kinds import FEW, NAMES, TEXTS, family_of, make

# Made for decoders: no token begins or ends a text, or none stands for a masked one. What is missing is told.
REFUSED = {
    *("CLIPTokenizer", "CodeLlamaTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "GemmaTokenizer"),
    *("LlamaTokenizer", "OpenAIGPTTokenizer", "Qwen2Tokenizer", "ReformerTokenizer", "T5Tokenizer"),
    *("UdopTokenizer", "WhisperTokenizer"),
}
NO_MASK = {"NougatTokenizer", "SeamlessM4TTokenizer", "XGLMTokenizer"}  # prepared, but not trained on
RANDOM_TEXTS = st.lists(
    st.sampled_from(
        [*" \n\t.,'\"\u2581\u3000\u0301", "  ", "\r\n", *" ".join(TEXTS).split(), "<mask>", "</s>"]
    ),
    max_size=30,
).map("".join) | st.text(max_size=40)


def test_most_kinds_are_taken() -> None:
    assert len(set(NAMES) - REFUSED - NO_MASK) >= 34
    assert set(FEW) <= set(NAMES) - REFUSED - NO_MASK


def shard_rows(corpus: Path) -> list[list[int]]:
    """All rows of a corpus that holds a document in each, without padding."""
    manifest = read_manifest(corpus)
    found = []
    for split in ("train", "valid"):
        opened = CorpusSplit(corpus, split, manifest)  # type: ignore[arg-type]
        rows = opened.read(np.arange(opened.num_rows))
        found += [ids[:length].tolist() for ids, length in zip(rows.input_ids, rows.lengths)]
    return found


def without_borders(ids: list[int], directory: TokenizerDirectory) -> list[int]:
    """Unigram models find "</s>" in a text whatever they are told; in rows it would be a border."""
    tokens = directory.special_tokens
    taken_out = [directory.id_of(role) for role in ("cls", "sep", "pad", "mask") if role in tokens]
    return [ids[0], *(token for token in ids[1:-1] if token not in taken_out), ids[-1]]


@pytest.mark.parametrize("name", NAMES)
def test_shards_hold_the_tokens_of_every_reader(name: str, prepare: Callable[[str], Prepared]) -> None:
    prepared = prepare(name)
    if name in REFUSED:
        assert prepared.code == 65
        assert "_token is not set" in prepared.told or "are both" in prepared.told
        assert not prepared.corpus.exists()
        return
    assert prepared.code == 0, prepared.told
    directory = open_directory(prepared.corpus / TOKENIZER_NAME)
    texts = [clean_text(text, "nfc") for text in TEXTS]
    expected = [directory.tokenizer.encode(text).ids for text in texts]
    rows = shard_rows(prepared.corpus)
    assert [ids for ids in expected if without_borders(ids, directory) not in rows] == []
    # The tokens are those of the directory that was given.
    given = open_directory(prepared.source).tokenizer
    inside = [given.encode(text, add_special_tokens=False).ids for text in texts]
    assert [ids[1:-1] for ids in expected] == inside
    for reader in (
        transformers_tokenizer(directory),
        AutoTokenizer.from_pretrained(directory.path, split_special_tokens=True),
    ):
        assert first_difference(directory, reader, TEXTS) is None
        assert reader.padding_side == reader.truncation_side == "right"


@pytest.mark.parametrize("name", NAMES)
def test_stretches_of_random_texts_give_the_tokens_of_the_whole(name: str, tmp_path: Path) -> None:
    make(name, tmp_path / "tokenizer")
    tokenizer = open_directory(tmp_path / "tokenizer").tokenizer

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    @settings(max_examples=40)
    @given(RANDOM_TEXTS, st.integers(1, 24))
    def check(text: str, limit: int) -> None:
        stretches = Stretches(tokenizer, limit).of(text)
        assert [token for stretch in stretches for token in ids(stretch)] == ids(text)

    check()


@pytest.fixture
def trained(name: str, prepare: Callable[[str], Prepared], tmp_path: Path) -> Iterator["Trained"]:
    prepared = prepare(name)
    assert prepared.code == 0, prepared.told
    directory = open_directory(prepared.corpus / TOKENIZER_NAME)
    recipe = TINY_RECIPE | {"corpus": str(prepared.corpus), "run_dir": str(tmp_path / "run")}
    recipe["model"] = TINY_RECIPE["model"] | {"family": family_of(directory.tokenizer)}
    recipe["guidance"] = {"heads": {"next": 1, "previous": 1}}  # what local attention reaches, too
    recipe["train"] = TINY_RECIPE["train"] | {"num_steps": 3}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    finished = train(tmp_path / "recipe.yaml")
    assert finished.code == 0, finished.output
    yield Trained(tmp_path / "run", directory)
    shutil.rmtree(tmp_path, ignore_errors=True)  # tens of megabytes for every kind


class Trained:
    """A run, and the tokenizer of its corpus."""

    def __init__(self, run: Path, directory: TokenizerDirectory) -> None:
        self.run, self.directory = run, directory
        self.expected = [directory.tokenizer.encode(text).ids for text in TEXTS]


# The texts have what looks like special tokens, which transformers 4 finds in texts unless told otherwise.
ORDINARY = [text for text in TEXTS if "<mask>" not in text]


def check_run(trained: Trained, read_by_transformers_4: Callable[..., dict[str, list[Any]]]) -> None:
    """Evaluated and exported, the run's tokenizer gives the ids that are in the shards."""
    run, directory = trained.run, trained.directory
    assert main(["evaluate", str(run)]) == 0
    assert main(["export", str(run)]) == 0
    encoder = Encoder.open(str(run), torch.device("cpu"))
    assert first_difference(directory, encoder.tokenizer, TEXTS) is None
    export = run / "export"
    auto = AutoTokenizer.from_pretrained(export, split_special_tokens=True)
    assert first_difference(directory, auto, TEXTS) is None
    assert (
        first_difference(directory, Encoder.open(str(export), torch.device("cpu")).tokenizer, TEXTS) is None
    )
    *encodings, logits = read_by_transformers_4({str(export): ORDINARY})[str(export)]
    for text, (ids, offsets) in zip(ORDINARY, encodings):
        ours = directory.tokenizer.encode(text)
        assert ids == ours.ids
        assert [tuple(pair) for pair in offsets] == ours.offsets
    model = AutoModelForMaskedLM.from_pretrained(export).eval()
    with torch.no_grad():
        found = model(torch.tensor([encodings[0][0]])).logits[0, 0, :8]
    assert torch.allclose(found, torch.tensor(logits), atol=2e-3)
    model(**auto(TEXTS[0], TEXTS[1], return_tensors="pt"))  # also a model without token types takes a pair


@pytest.mark.parametrize("name", FEW)
def test_trained_evaluated_and_exported(
    name: str, trained: Trained, read_by_transformers_4: Callable[..., dict[str, list[Any]]]
) -> None:
    check_run(trained, read_by_transformers_4)


@pytest.mark.matrix
@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED | NO_MASK | set(FEW)])
def test_every_kind_is_trained_evaluated_and_exported(
    name: str, trained: Trained, read_by_transformers_4: Callable[..., dict[str, list[Any]]]
) -> None:
    check_run(trained, read_by_transformers_4)


def test_an_export_says_nothing_of_this_machine(tmp_path: Path) -> None:
    """Nor names a class that only one version of transformers has."""
    source = tmp_path / "tokenizer"
    make("RobertaTokenizer", source)
    open_directory(source).write(tmp_path / "written")
    config = json.loads((tmp_path / "written" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"name_or_path", "backend", "is_local", "local_files_only", "tokenizer_file"} & set(config)
