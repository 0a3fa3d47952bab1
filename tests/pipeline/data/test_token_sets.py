"""Which tokens a recipe's texts stand for."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_prep.__main__ import main
from pipeline.data.token_sets import guidance_token_ids

TEXT = "The cat sat . The dog ran. What ? Yes! No . Be naïve . So naïve and so on. A naïve one . End."


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind of tokenizer, a directory with one that has seen full stops after a space and after a word."""
    folder = tmp_path_factory.mktemp("corpora")
    documents = folder / "documents.jsonl"
    documents.write_text("".join(json.dumps({"text": TEXT}) + "\n" for _ in range(9)), encoding="utf-8")
    for kind in ("bpe", "wordpiece"):
        out = str(folder / kind / "tokenizer")
        command = ["tokenizer", str(documents), "--out", out, "--kind", kind, "--vocab-size", "360"]
        assert main(command) == 0
    return {kind: folder / kind for kind in ("bpe", "wordpiece")}


def open_tokenizer(corpus: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(str(corpus / "tokenizer"))


def ids_of(corpus: Path, *texts: str) -> tuple[int, ...]:
    return guidance_token_ids(corpus, {"set": texts})["set"]


def test_a_full_stop_is_every_token_that_decodes_to_it(corpora: dict[str, Path]) -> None:
    """Byte-level BPE has one that follows a space and one that follows a word."""
    tokenizer = open_tokenizer(corpora["bpe"])

    found = ids_of(corpora["bpe"], ".")

    assert found == tuple(sorted(tokenizer.convert_tokens_to_ids([".", "Ġ."])))
    assert found == tuple(i for i in range(len(tokenizer)) if tokenizer.decode([i]).strip() == ".")


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_every_full_stop_of_a_text_is_found(corpora: dict[str, Path], kind: str) -> None:
    tokenizer, found = open_tokenizer(corpora[kind]), ids_of(corpora[kind], ".")

    num_found = sum(token_id in found for token_id in tokenizer(TEXT)["input_ids"])

    assert num_found == TEXT.count(".")


def test_a_text_with_a_character_beyond_ascii_is_what_it_decodes_to(corpora: dict[str, Path]) -> None:
    """Byte-level BPE writes the token as other characters."""
    tokenizer = open_tokenizer(corpora["bpe"])

    (token_id,) = ids_of(corpora["bpe"], "naïve")

    assert tokenizer.decode([token_id]).strip() == "naïve"
    assert tokenizer.convert_ids_to_tokens(token_id).strip("Ġ") != "naïve"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_cls_and_sep_stand_for_the_tokenizers_own(corpora: dict[str, Path], kind: str) -> None:
    tokenizer = open_tokenizer(corpora[kind])

    assert ids_of(corpora[kind], "<cls>") == (tokenizer.cls_token_id,)
    assert ids_of(corpora[kind], "<sep>") == (tokenizer.sep_token_id,)
    assert tokenizer.cls_token_id != tokenizer.sep_token_id


@pytest.mark.parametrize(("kind", "text"), [("bpe", "</s>"), ("bpe", "<mask>"), ("wordpiece", "[SEP]")])
def test_a_special_token_is_found_by_its_text(corpora: dict[str, Path], kind: str, text: str) -> None:
    tokenizer = open_tokenizer(corpora[kind])

    assert ids_of(corpora[kind], text) == (tokenizer.convert_tokens_to_ids(text),)


def test_sets_have_the_ids_of_all_their_texts_ascending_and_once(corpora: dict[str, Path]) -> None:
    corpus, texts = corpora["bpe"], ["?", "</s>", ".", "<sep>", "."]

    found = guidance_token_ids(corpus, {"delimiters": texts, "sentence_ends": ["!"]})

    assert found["delimiters"] == tuple(sorted({i for text in texts for i in ids_of(corpus, text)}))
    assert found["sentence_ends"] == ids_of(corpus, "!")
    assert len(found["delimiters"]) == 5  # two full stops, two question marks, one separator


@pytest.mark.parametrize("text", ["[SEP]", "<s", "full stop", "..", "fullstop"])
def test_text_that_is_no_token_is_named(corpora: dict[str, Path], text: str) -> None:
    with pytest.raises(ValueError, match=r"write a text that is one token") as caught:
        ids_of(corpora["bpe"], ".", text)

    assert repr(text) in str(caught.value)
    assert str(corpora["bpe"] / "tokenizer") in str(caught.value)
    assert repr(".") not in str(caught.value)


@pytest.mark.parametrize("text", ["»", "¡", "Ã", "Ġ"])
def test_part_of_a_character_is_no_token_of_a_text(corpora: dict[str, Path], text: str) -> None:
    """Byte-level BPE writes bytes as characters: its "¡" is the second byte of "á" as well."""
    assert len(open_tokenizer(corpora["bpe"]).tokenize(text)) > 1

    with pytest.raises(ValueError, match="is one token"):
        ids_of(corpora["bpe"], text)


def test_a_text_may_be_written_with_its_space_and_none_stands_for_all_spaces(
    corpora: dict[str, Path],
) -> None:
    assert ids_of(corpora["bpe"], " .") == ids_of(corpora["bpe"], ".")
    with pytest.raises(ValueError, match="is one token"):
        ids_of(corpora["bpe"], "")


def test_without_sets_the_tokenizer_is_not_opened(tmp_path: Path) -> None:
    assert guidance_token_ids(tmp_path / "nowhere", {}) == {}
