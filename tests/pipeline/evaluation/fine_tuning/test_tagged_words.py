import gzip

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.evaluation.fine_tuning.fine_tuner import FineTuner
from pipeline.evaluation.fine_tuning.tagged_words import (
    Sentence,
    predicted_tags,
    read_sentences,
    tag_set,
    tokenize_words,
)
from pipeline.evaluation.task import Settings

CONLL = """\
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

Peter\tNNP\tB-NP\tB-PER
Black\u00a0wood NNP I-NP I-PER


-DOCSTART- -X- O O

1996 CD I-NP O"""
SENTENCES = [
    Sentence(["EU", "rejects"], ["B-ORG", "O"]),
    Sentence(["Peter", "Black\u00a0wood"], ["B-PER", "I-PER"]),
    Sentence(["1996"], ["O"]),
]
TAGS = ["O", "B-X"]


def tokenizing(encoder, max_length=128):
    return FineTuner(encoder, Settings(max_length=max_length), "word", len(TAGS))


def test_words_are_the_first_column_and_tags_the_last(tmp_path):
    for name, ends in (("a.txt", "\n"), ("a.conll.gz", "\r\n")):
        content = CONLL.replace("\n", ends).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        assert read_sentences(tmp_path / name) == SENTENCES
    assert read_sentences(tmp_path / "a.txt", limit=2) == SENTENCES[:2]


def test_tags_are_every_prefix_with_every_type():
    sentences = [Sentence(["a", "b", "c"], ["B-PER", "I-PER", "B-B-12"]), Sentence(["d"], ["O"])]
    assert tag_set(sentences) == ["O", "B-B-12", "I-B-12", "B-PER", "I-PER"]
    assert tag_set(sentences[1:]) == ["O"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nword\n", r"line 2: 'word' has no tag; expected a word, a space and its tag"),
        ("O a\n", r"line 1: 'a' is no tag; expected O, or B-, I-, E- or S- and a type"),
        ("a B-\n", r"line 1: 'B-' is no tag"),
        ("a O\n\nb B-Y\n", r"line 3: the tag 'B-Y' is not of the training examples'; expected O, B-X"),
        ("\n-DOCSTART- O\n\n", r"no sentence; expected lines of a word and its tag"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path, text, message):
    (tmp_path / "dev.txt").write_text(text)
    with pytest.raises(DataError, match=rf"dev\.txt.*{message}"):
        read_sentences(tmp_path / "dev.txt", TAGS)


@pytest.mark.parametrize(("kind", "special"), [("bpe", "ọ̀rọ"), ("wordpiece", "roro")])
def test_the_label_stands_at_the_first_token_of_a_word(tiny_encoder, kind, special):
    made = tokenizing(tiny_encoder("bert", kind))
    tokenizer = made.encoder.tokenizer
    words = ["Precedent", "the", special, ",", "(", "x)"]
    tags = ["B-X", "O", "B-X", "O", "B-X", "O"]
    tagged = tokenize_words(made, [Sentence(words, tags)], TAGS)
    (features,), (places,) = tagged.features, tagged.places
    assert tagged.num_cut == 0
    assert None not in places
    # Each word's tokens, put together again, are the word.
    ends = [*places[1:], len(features["input_ids"]) - 1]
    for word, start, end in zip(words, places, ends):
        assert tokenizer.decode(features["input_ids"][start:end]).replace(" ", "") == word
    expected = [-100] * len(features["input_ids"])
    for place, tag in zip(places, tags):
        expected[place] = TAGS.index(tag)
    assert features["labels"] == expected
    assert places[0] == 1  # behind the special token
    assert places[1] > 2  # the first word has several tokens


def test_words_have_the_tokens_they_have_in_running_text(tiny_encoder):
    made = tokenizing(tiny_encoder("roberta", "bpe"))
    sentence = Sentence(["the", "value", "of", "the", "path"], ["O"] * 5)
    (features,) = tokenize_words(made, [sentence], TAGS).features
    assert features["input_ids"] == made.encoder.tokenizer("the value of the path")["input_ids"]
    tokens = made.encoder.tokenizer.convert_ids_to_tokens(features["input_ids"])
    assert tokens.count("Ġthe") == 1


def test_words_behind_the_cut_and_words_without_tokens_are_predicted_outside(tiny_encoder):
    made = tokenizing(tiny_encoder("bert", "wordpiece"), max_length=6)
    # BERT's normalization drops control characters: \x01 is a word without a token.
    sentences = [
        Sentence(["the"] * 7, ["B-X"] * 7),
        Sentence(["the", "\x01", "the"], ["B-X"] * 3),
    ]
    tagged = tokenize_words(made, sentences, TAGS)
    assert tagged.places == [[1, 2, 3, 4, None, None, None], [1, None, 2]]
    assert tagged.num_cut == 4
    logits = np.zeros((2, 6, 2))
    logits[..., 1] = 1.0  # B-X wherever it is asked
    assert predicted_tags(logits, tagged.places, TAGS) == [["B-X"] * 4 + ["O"] * 3, ["B-X", "O", "B-X"]]
