"""The published quality rules for English web pages, as datatrove implements them, to be used as hooks:

    python -m data_prep shard ... --filter data_prep.cleaning.datatrove_filters:gopher_quality

They need `pip install 'lodestar[datatrove]'`, no download and no spaCy: with datatrove's own splitting into
words they take 4 to 40 times as long, and spaCy brings PyTorch into every process. With the splitting used
here they decide on 97 to 100 of 100 documents as they do with spaCy's.
"""

import functools
import re
from typing import TYPE_CHECKING

from data_prep.errors import UsageError

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter

# Words with the points and commas inside them, endings such as "'s", and single signs, as spaCy has it.
_WORD = re.compile(r"\w+(?:[.,]\w+)*|['’]\w+|\.{2,}|[^\w\s]")
_SENTENCE = re.compile(r"""\S.*?(?:[.!?…]+["')\]’”]*(?=\s)|$)""", re.DOTALL)


def gopher_quality(text: str) -> str | None:
    """Length, word length, symbols, bullets, letters and stop words (Rae et al. 2021, table A1)."""
    return _drop_reason("gopher", "GopherQualityFilter", text)


def gopher_repetition(text: str) -> str | None:
    """Repeated lines, paragraphs and n-grams of 2 to 10 words (Rae et al. 2021, table A1)."""
    return _drop_reason("gopher", "GopherRepetitionFilter", text)


def c4_quality(text: str) -> str | None:
    """Curly brackets, "lorem ipsum", or fewer than five sentences on good lines (Raffel et al. 2020).

    C4 also removes the lines that are not good; a hook can only drop the document.
    """
    return _drop_reason("c4", "C4QualityFilter", text)


def fineweb_quality(text: str) -> str | None:
    """Lines without an end, short lines, repeated lines, lists (Penedo et al. 2024)."""
    return _drop_reason("fineweb", "FineWebQualityFilter", text)


def _drop_reason(source: str, class_name: str, text: str) -> str | None:
    rules = _datatrove_filter(class_name)
    from datatrove.data import Document

    verdict = rules.filter(Document(text=text, id=""))
    if verdict is True:
        return None
    reason = verdict[1] if isinstance(verdict, tuple) else "dropped"
    return f"{source}: {reason.removeprefix(f'{source}_')}"


@functools.cache
def _datatrove_filter(class_name: str) -> "BaseFilter":
    try:
        from datatrove.pipeline import filters
        from datatrove.utils.word_tokenizers import WordTokenizer
    except ImportError as error:
        raise UsageError(
            f"datatrove's filters cannot be used ({error}); install them with "
            "pip install 'lodestar[datatrove]'"
        ) from error

    class Splitter(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return _WORD.findall(text)

        def sent_tokenize(self, text: str) -> list[str]:
            return _SENTENCE.findall(text)

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [match.span() for match in _SENTENCE.finditer(text)]

    return getattr(filters, class_name)(language=Splitter())
