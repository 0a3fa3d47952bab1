"""Cleaning changes what cannot be seen, and nothing else."""

import csv
import gzip
import time
import unicodedata
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning import normalize
from data_prep.cleaning.normalize import UnicodeForm, clean_text

NEWS = Path(__file__).parents[4] / "shared" / "data" / "masakhanews"
FORMS: tuple[UnicodeForm, ...] = get_args(UnicodeForm)
# Every character that is treated specially, more often than chance would have it.
special_text = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("\r\n\t\x00\x0b\x0c\x7f\x85\x9f\ufeff\uffff"))
)


def news(language: str) -> list[str]:
    path = NEWS / language / "dev.tsv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["text"] for row in rows if row["text"]]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("", ""),
        ("a\r\nb\rc\n\r\nd\te  f ", "a\nb\nc\n\nd\te  f "),
        ("a\x00b\x07c\x1bd\x7fe", "abcde"),
        ("\ufeffa\ufeffb\ufffec\uffff", "abc"),
        ("a\x80b\x9fc\u00a0d", "abc\u00a0d"),
        ("one\x0ctwo\x0bthree\x85four", "one\ntwo\nthree\nfour"),
        ("co\u00adop\u200d\u200c\u2028\u200b", "co\u00adop\u200d\u200c\u2028\u200b"),
        ("\u4e2d\u6587\U0001f600\ufffd", "\u4e2d\u6587\U0001f600\ufffd"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_line_ends_and_control_characters(text: str, cleaned: str, form: UnicodeForm) -> None:
    if form != "nfkc":  # which turns a no-break space into a space
        assert clean_text(text, form) == cleaned
    assert clean_text(text.replace("\u00a0", " "), form) == cleaned.replace("\u00a0", " ")


def test_unicode_forms() -> None:
    text = "e\u0301 \ufb01 \uff21 x\u00b2 \u212b"
    assert clean_text(text, "none") == text
    assert clean_text(text, "nfc") == "\u00e9 \ufb01 \uff21 x\u00b2 \u00c5"
    assert clean_text(text, "nfkc") == "\u00e9 fi A x2 \u00c5"


def test_characters_taken_for_composed_are() -> None:
    """Neither changed alone nor joined to a character before them."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    composed = {character for character in characters if normalize._COMPOSED.fullmatch(character)}
    assert len(composed) > 20_000
    for character in composed:
        assert unicodedata.combining(character) == 0
        assert unicodedata.normalize("NFC", character) == character
    for character in characters:
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            assert chr(int(parts[1], 16)) not in composed
    assert not composed & {chr(code) for code in range(0x1160, 0x1200)}  # Hangul is composed by rule


def test_yoruba_letters_have_one_spelling() -> None:
    """Unicode has e with dot below, and e with acute, but not e with both."""
    spellings = ["e\u0323\u0301", "e\u0301\u0323", "\u1eb9\u0301", "\u00e9\u0323"]
    assert {clean_text(spelling, "nfc") for spelling in spellings} == {"\u1eb9\u0301"}
    assert clean_text("s\u0323o\u0323\u0300", "nfc") == "\u1e63\u1ecd\u0300"


@pytest.mark.parametrize("language", ["yor", "orm"])
def test_news_keep_every_letter_and_mark(language: str) -> None:
    for text in news(language):
        for decomposed in (text, unicodedata.normalize("NFD", text)):
            cleaned = clean_text(decomposed, "nfc")
            assert cleaned == clean_text(cleaned, "nfc")
            assert unicodedata.is_normalized("NFC", cleaned)
            kept = [c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Cc"]
            left = [c for c in unicodedata.normalize("NFD", cleaned) if unicodedata.category(c) != "Cc"]
            assert left == [c for c in kept if c != "\ufeff"]


@given(text=special_text, form=st.sampled_from(FORMS))
@settings(max_examples=500, deadline=None)
def test_cleaning_twice_is_cleaning_once(text: str, form: UnicodeForm) -> None:
    cleaned = clean_text(text, form)
    assert clean_text(cleaned, form) == cleaned
    removed = {c for c in cleaned if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    assert not removed
    assert not set(cleaned) & set("\ufeff\ufffe\uffff")


@given(text=special_text)
@settings(max_examples=300, deadline=None)
def test_without_a_form_only_control_characters_go(text: str) -> None:
    def others(text: str) -> list[str]:
        return [c for c in text if unicodedata.category(c) != "Cc" and c not in "\ufeff\ufffe\uffff"]

    assert others(clean_text(text, "none")) == others(text)


def test_clean_english_passes_quickly() -> None:
    """A hundred megabytes per second is a fifth of what it does on a quiet machine."""
    text = "The quick brown fox jumps over the lazy dog. " * 200_000
    started = time.process_time()
    assert clean_text(text, "nfc") is text
    assert time.process_time() - started < len(text) / 100e6
