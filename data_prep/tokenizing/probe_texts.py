"""Texts on which two readings of a tokenizer are compared, and what is shown where they differ."""

from collections.abc import Sequence

_SHOWN_TOKENS = 6

# Capitals, accents in both forms, final sigma, ligatures, runs of spaces, digits, scripts and symbols: what
# normalizers and pre-tokenizers treat differently.
PROBE_TEXTS = (
    "Hello, World! It's 12345 tokens, isn't it?",
    "  two  spaces\n and a new line\tand a tab ",
    "\u00dcn\u00efc\u00f6d\u00e9 e\u0301 \u00c5ngstr\u00f6m \u03a3\u0391\u03a3 \ufb01 \u2460 \u00bd",
    "\u6771\u4eac \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\u041c\u043e\u0441\u043a\u0432\u0430 \U0001f642 \u2014 https://example.org/a_b?c=1",
)


def shown_tokens(ours: Sequence[object], theirs: Sequence[object]) -> slice:
    """The place of the first difference of two sequences and a few tokens behind it."""
    first = next((place for place, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), 0)
    return slice(first, first + _SHOWN_TOKENS)
