"""Sentences of tagged words: reading CoNLL's layout, and taking them to a model's tokens and back."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.evaluation.fine_tuning.fine_tuner import Features, FineTuner
from pipeline.evaluation.fine_tuning.text_files import read_lines

OUTSIDE = "O"

_IGNORED = -100  # the label that costs nothing
_SEPARATOR = re.compile(r"[ \t]+")  # other white space may stand in a word
_TAG = re.compile(r"O|[BIES]-.+")


@dataclass(frozen=True)
class Sentence:
    """Words, and a tag for each."""

    words: list[str]
    tags: list[str]


def read_sentences(
    path: Path, known: Sequence[str] | None = None, limit: int | None = None
) -> list[Sentence]:
    """The first `limit` sentences, or all.

    A line holds a word, perhaps more columns, and last its tag; a blank line ends a sentence. Lines of
    -DOCSTART- are no words.

    Args:
        path: .gz is unpacked.
        known: tags that may occur; None for all that look like tags.
        limit: of sentences.

    Raises:
        DataError: A line without a tag, something that is no tag or is not known, or no sentence at all.
    """
    sentences = list(islice(_sentences(path, known), limit))
    if not sentences:
        raise DataError(f"{path}: no sentence; expected lines of a word and its tag, such as 'Ibadan B-LOC'")
    return sentences


def _sentences(path: Path, known: Sequence[str] | None) -> Iterator[Sentence]:
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = _SEPARATOR.split(line.strip(" \t\r\n"))
        if fields != [""] and fields[0] != "-DOCSTART-":
            words.append(fields[0])
            tags.append(_tag(path, number, fields, known))
        elif words:
            yield Sentence(words, tags)
            words, tags = [], []
    if words:
        yield Sentence(words, tags)


def _tag(path: Path, number: int, fields: list[str], known: Sequence[str] | None) -> str:
    tag = fields[-1]
    if len(fields) < 2:
        raise DataError(f"{path}, line {number}: {tag!r} has no tag; expected a word, a space and its tag")
    if not _TAG.fullmatch(tag):
        raise DataError(
            f"{path}, line {number}: {tag!r} is no tag; expected {OUTSIDE}, or B-, I-, E- or S- and a type, "
            "in the last column"
        )
    if known is not None and tag not in known:
        raise DataError(
            f"{path}, line {number}: the tag {tag!r} is not of the training examples'; "
            f"expected {', '.join(known)}"
        )
    return tag


def tag_set(sentences: Sequence[Sentence]) -> list[str]:
    """O, and each prefix that occurs with each type that occurs; a pair of them need not."""
    split = [tag.split("-", 1) for sentence in sentences for tag in sentence.tags if tag != OUTSIDE]
    prefixes = sorted({prefix for prefix, _ in split})
    types = sorted({name for _, name in split})
    return [OUTSIDE, *(f"{prefix}-{name}" for name in types for prefix in prefixes)]


@dataclass(frozen=True)
class TaggedTokens:
    """Sentences as the model takes them.

    Attributes:
        features: of each sentence; the label of a word stands at its first token, all others cost nothing.
        places: of each sentence, the first token of each word; None for a word behind the cut.
    """

    features: list[Features]
    places: list[list[int | None]]

    @property
    def num_cut(self) -> int:
        """Words that have no token."""
        return sum(place is None for places in self.places for place in places)


def tokenize_words(tuner: FineTuner, sentences: Sequence[Sentence], tags: Sequence[str]) -> TaggedTokens:
    """Sentences as texts of words with spaces between, as in pretraining.

    Words handed over one by one would lack the space that byte-level BPE makes part of a token.
    """
    tokenized = tuner.encoder.offset_tokenizer()(
        [" ".join(sentence.words) for sentence in sentences],
        truncation=True,
        max_length=tuner.max_length,
        return_token_type_ids=tuner.has_segments,
    )
    number = {tag: index for index, tag in enumerate(tags)}
    features, all_places = [], []
    for example, sentence in enumerate(sentences):
        places = _first_tokens(tokenized.encodings[example].offsets, sentence.words)
        inputs = {name: values[example] for name, values in tokenized.items()}
        labels = [_IGNORED] * len(inputs["input_ids"])
        for place, tag in zip(places, sentence.tags):
            if place is not None:
                labels[place] = number[tag]
        features.append({**inputs, "labels": labels})
        all_places.append(places)
    return TaggedTokens(features, all_places)


def predicted_tags(
    logits: np.ndarray, places: Sequence[Sequence[int | None]], tags: Sequence[str]
) -> list[list[str]]:
    """A tag for every word, O where it has no token.

    Args:
        logits: [sentences, tokens, tags].
        places: see TaggedTokens.
        tags: names of the last dimension.
    """
    best = logits.argmax(axis=-1)
    return [
        [OUTSIDE if place is None else tags[best[sentence, place]] for place in of_sentence]
        for sentence, of_sentence in enumerate(places)
    ]


def _first_tokens(offsets: Sequence[tuple[int, int]], words: Sequence[str]) -> list[int | None]:
    """The first token that holds characters of each word, in a text of the words with spaces between.

    Args:
        offsets: where in the text each token begins and ends; special tokens are empty.
        words: of the text.
    """
    places: list[int | None] = []
    start, token = 0, 0
    for word in words:
        end = start + len(word)
        # A token may begin at the space before its word. Special tokens are empty and end at 0.
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1
        is_found = token < len(offsets) and offsets[token][0] < end
        places.append(token if is_found else None)
        start = end + 1
    return places
