"""The template sentences and where their words are in tokens."""

import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipeline.evaluation.probing.reflexives import (
    LocatedSentence,
    ReflexiveSentence,
    best_offset,
    locate,
    reflexive_sentences,
)

SENTENCES = reflexive_sentences(2000)


def text_of(sentence: ReflexiveSentence, span: tuple[int, int]) -> str:
    return sentence.text[slice(*span)]


def test_sentences_are_different_and_a_function_of_the_seed():
    assert len({sentence.text for sentence in SENTENCES}) == 2000
    assert reflexive_sentences(2000) == SENTENCES
    assert reflexive_sentences(10) == SENTENCES[:10]
    assert reflexive_sentences(10, seed=1) != SENTENCES[:10]


def test_reflexive_agrees_with_its_antecedent_and_nothing_else():
    women = {"woman", "girl", "queen", "mother", "daughter", "sister", "wife", "aunt", "princess"}
    men = {"man", "boy", "king", "father", "son", "brother", "husband", "prince", "uncle"}

    def reflexive_of(noun: str) -> str:
        return "herself" if noun in women else "himself" if noun in men else "themselves"

    for sentence in SENTENCES:
        assert len(re.findall(r"himself|herself|themselves", sentence.text)) == 1
        reflexive = text_of(sentence, sentence.reflexive)
        assert reflexive_of(text_of(sentence, sentence.antecedent)) == reflexive
        if sentence.distractor is not None:
            assert reflexive_of(text_of(sentence, sentence.distractor)) != reflexive
    found = {text_of(sentence, sentence.reflexive) for sentence in SENTENCES}
    assert found == {"himself", "herself", "themselves"}


def test_some_sentences_have_a_distractor_between_and_some_a_preface():
    between = [sentence for sentence in SENTENCES if not sentence.antecedent_is_nearest]
    assert 0.3 < len(between) / 2000 < 0.7
    assert all(sentence.antecedent < sentence.distractor < sentence.reflexive for sentence in between)
    assert 0.4 < sum(". " in sentence.text for sentence in SENTENCES) / 2000 < 0.6


def test_words_of_several_tokens_are_found(tiny_tokenizer: Path):
    """600 entries have few of these words as one token."""
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_tokenizer))
    num_pieces = set()
    for sentence in SENTENCES[:200]:
        encoded = tokenizer(sentence.text, return_offsets_mapping=True)
        located = locate(sentence, encoded["input_ids"], encoded["offset_mapping"], tokenizer.unk_token_id)
        noun = tokenizer.decode([located.token_ids[place] for place in located.antecedent])
        assert noun.strip() == text_of(sentence, sentence.antecedent)
        assert (
            tokenizer.decode(located.token_ids[located.reflexive :])
            .strip()
            .startswith(text_of(sentence, sentence.reflexive))
        )
        num_pieces.add(len(located.antecedent))
    assert max(num_pieces) > 1


def test_sentence_with_a_lost_word_is_not_used():
    sentence = ReflexiveSentence("The king sees himself.", (14, 21), (4, 8), None)
    offsets = [(0, 0), (0, 3), (4, 8), (9, 13), (14, 21), (21, 22), (0, 0)]
    found = locate(sentence, [0, 10, 11, 12, 13, 14, 2], offsets, unknown_id=3)
    assert found == LocatedSentence(sentence, (0, 10, 11, 12, 13, 14, 2), 4, (2,))
    assert locate(sentence, [0, 10, 3, 12, 13, 14, 2], offsets, unknown_id=3) is None
    assert locate(sentence, [0, 10, 12, 13, 2], [(0, 0), (0, 3), (9, 13), (14, 21), (0, 0)], 3) is None


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(4, (2,)), (5, (3,)), (6, (2, 3))], (-2, 2 / 3)),
        ([(4, (1, 2)), (5, (2, 3))], (-2, 1.0)),  # of two that reach as much, the nearer
    ],
)
def test_best_offset_is_the_most_frequent_distance(places, expected):
    sentences = [LocatedSentence(SENTENCES[0], (), *place) for place in places]
    assert best_offset(sentences) == pytest.approx(expected)
