"""Sentences with a reflexive and one possible antecedent, made from templates.

Deshpande and Narasimhan 2020 (section 5.3) ask which heads lead from a reflexive to its antecedent, in such
sentences with a sentence about something else in front. These are our own. The reflexive agrees with its
antecedent in gender and number, and with no other noun that it could stand for.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import TypeVar

_PREFACES = (
    "It was a warm day.",
    "The room was quiet.",
    "The train was late again.",
    "There was no wind at all.",
    "It had rained all night.",
    "The house is not far from here.",
    "Nothing else happened that week.",
    "The door was still open.",
)
_PREFACE_RATE = 0.5
# Of a distractor: none, after the antecedent, before it.
_TEMPLATES = (
    "The {noun} {verb} {reflexive}.",
    "The {noun} often {verb} {reflexive}.",
    "The {noun} near the {other} {verb} {reflexive}.",
    "The {noun} with the {other} {verb} {reflexive}.",
    "The {noun} who met the {other} {verb} {reflexive}.",
    "The {noun} that the {other} called {verb} {reflexive}.",
    "The {noun}, unlike the {other}, never {verb} {reflexive}.",
    "The {noun} who came with the {other} always {verb} {reflexive}.",
    "The {other} said that the {noun} {verb} {reflexive}.",
    "The {other} thought the {noun} really {verb} {reflexive}.",
    "Although the {other} left early, the {noun} {verb} {reflexive}.",
)
_NOUNS = {  # singular and plural
    "himself": (
        *(("man", "men"), ("boy", "boys"), ("king", "kings"), ("father", "fathers"), ("son", "sons")),
        *(("brother", "brothers"), ("husband", "husbands"), ("prince", "princes"), ("uncle", "uncles")),
    ),
    "herself": (
        *(("woman", "women"), ("girl", "girls"), ("queen", "queens"), ("mother", "mothers")),
        *(("daughter", "daughters"), ("sister", "sisters"), ("wife", "wives"), ("aunt", "aunts")),
        ("princess", "princesses"),
    ),
}
_VERBS = (  # singular and plural
    *(("sees", "see"), ("helps", "help"), ("knows", "know"), ("likes", "like"), ("loves", "love")),
    *(("hurts", "hurt"), ("asks", "ask"), ("blames", "blame"), ("trusts", "trust"), ("admires", "admire")),
    *(("watches", "watch"), ("describes", "describe"), ("defends", "defend"), ("follows", "follow")),
)
_ENTITIES = tuple(  # word, is plural, its reflexive
    (words[plural], bool(plural), "themselves" if plural else reflexive)
    for reflexive, nouns in _NOUNS.items()
    for words in nouns
    for plural in (0, 1)
)

Span = tuple[int, int]
_Option = TypeVar("_Option")


@dataclass(frozen=True)
class ReflexiveSentence:
    """A text and, as spans of its characters, its reflexive, antecedent and distractor, if there is any."""

    text: str
    reflexive: Span
    antecedent: Span
    distractor: Span | None

    @property
    def antecedent_is_nearest(self) -> bool:
        """Whether no other noun stands between antecedent and reflexive."""
        return self.distractor is None or self.distractor < self.antecedent


@dataclass(frozen=True)
class LocatedSentence:
    """A sentence in tokens: ids, place of the reflexive's first token, places of the antecedent's tokens."""

    sentence: ReflexiveSentence
    token_ids: tuple[int, ...]
    reflexive: int
    antecedent: tuple[int, ...]


def reflexive_sentences(count: int, seed: int = 0) -> list[ReflexiveSentence]:
    """`count` different sentences, a function of the seed."""
    generator = random.Random(seed)
    sentences: dict[str, ReflexiveSentence] = {}
    while len(sentences) < count:
        sentence = _draw_sentence(generator)
        sentences[sentence.text] = sentence
    return list(sentences.values())


def _draw_sentence(generator: random.Random) -> ReflexiveSentence:
    noun, is_plural, reflexive = _pick(generator, _ENTITIES)
    other, *_ = _pick(generator, [entity for entity in _ENTITIES if entity[2] != reflexive])
    verb = _pick(generator, _VERBS)[is_plural]
    words = {"noun": noun, "other": other, "verb": verb, "reflexive": reflexive}
    template = _pick(generator, _TEMPLATES)
    text = f"{_pick(generator, _PREFACES)} " if generator.random() < _PREFACE_RATE else ""
    spans: dict[str, Span] = {}
    for literal, name, *_ in Formatter().parse(template):
        text += literal
        if name is not None:
            spans[name] = (len(text), len(text) + len(words[name]))
            text += words[name]
    return ReflexiveSentence(text, spans["reflexive"], spans["noun"], spans.get("other"))


def _pick(generator: random.Random, options: Sequence[_Option]) -> _Option:
    # random() is the one method whose sequence Python promises to keep.
    return options[int(generator.random() * len(options))]


def locate(
    sentence: ReflexiveSentence, token_ids: Sequence[int], offsets: Sequence[Span], unknown_id: int | None
) -> LocatedSentence | None:
    """Where reflexive and antecedent are; None if the tokenizer has lost a word.

    Args:
        sentence: the text.
        token_ids: of all of it, special tokens included.
        offsets: characters that each token stands for; (0, 0) for a special token.
        unknown_id: stands for text that the tokenizer has no token for.
    """
    reflexive = _tokens_in(sentence.reflexive, offsets)
    antecedent = _tokens_in(sentence.antecedent, offsets)
    if unknown_id in token_ids or not reflexive or not antecedent:
        return None
    return LocatedSentence(sentence, tuple(token_ids), reflexive[0], antecedent)


def _tokens_in(span: Span, offsets: Sequence[Span]) -> tuple[int, ...]:
    return tuple(index for index, (start, end) in enumerate(offsets) if start < span[1] and end > span[0])


def best_offset(sentences: Sequence[LocatedSentence]) -> tuple[int, float]:
    """The distance from the reflexive at which most antecedents have a token, and the share of those.

    What a head could reach that always looks so many tokens back.
    """
    counts = Counter(place - sentence.reflexive for sentence in sentences for place in sentence.antecedent)
    offset = min(counts, key=lambda offset: (-counts[offset], abs(offset)))
    return offset, counts[offset] / len(sentences)
