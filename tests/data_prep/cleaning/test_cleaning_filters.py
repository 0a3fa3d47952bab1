"""What the filters drop and, above all, what they keep."""

import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning.filters import FilterOptions, make_filter, repetition, symbol_share
from data_prep.errors import UsageError

ROOT = Path(__file__).parents[3]
RANDOM = random.Random(0)
JACK = """This is the cat
That killed the rat
That ate the malt
That lay in the house that Jack built.

This is the dog
That worried the cat
That killed the rat
That ate the malt
That lay in the house that Jack built.
"""
KEPT = {
    "a word": "Yes",
    "a title": "5 + 5 = 10",
    "a poem with a refrain": JACK,
    "a table of numbers": "\n".join(
        "\t".join(f"{RANDOM.random() * 1000:9.2f}" for _ in range(6)) for _ in range(300)
    ),
    "small numbers": "\n".join(" ".join(str(RANDOM.randint(0, 9)) for _ in range(20)) for _ in range(100)),
    "percentages": " ".join(f"{RANDOM.randint(0, 99)}%" for _ in range(200)),
    "a table in Markdown": "\n".join(
        f"| {RANDOM.randint(0, 999)} | {RANDOM.randint(0, 999)} | {RANDOM.choice(['yes', 'no'])} |"
        for _ in range(40)
    ),
    "a manual": (ROOT / "README.md").read_text(encoding="utf-8"),
    "source code": (ROOT / "data_prep" / "cleaning" / "hook.py").read_text(encoding="utf-8"),
    "C": "for (i = 0; i < n; i++) { a[i] = b[i] * c[i]; }\nif (x != y && *p++ == q->r) return -1;\n",
    "a heading with rules": "=====\nTitle\n=====\n\nSome text below the title of the page, as is usual.\n",
    "Ethiopic": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።",
    "Yoruba": "Gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́ kọ̀ọ̀kan sì dọ́gba.",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
}
DROPPED = {
    "too repetitive": {
        "a word over and over": "spam " * 60,
        "a line over and over": "All rights reserved. Click here to go on.\n" * 40,
        "a letter": "a" * 300,
        "Chinese over and over": "点击这里领取奖品。" * 40,
        "lines that differ in a number": "".join(
            f"Page {n} of 400. Please enable cookies to see it.\n" for n in range(400)
        ),
    },
    "too many symbols": {
        "an image of letters": r"/\_/\  ***  ### ~~~ <>< =-=-= |||| ____ ^^^^ @@@",
        "escapes": "\\x1f\\x8b\\x08 <<<>>> {{{}}} [[[]]] ~~~~ ^^^ ###",
    },
    "empty": {"nothing": "", "spaces": " \n\t\u00a0\u3000 "},
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_the_defaults_keep(kind: str) -> None:
    assert make_filter(FilterOptions())(KEPT[kind]) is None


@pytest.mark.parametrize(
    ("reason", "kind"), [(reason, kind) for reason, texts in DROPPED.items() for kind in texts]
)
def test_what_the_defaults_drop(reason: str, kind: str) -> None:
    assert make_filter(FilterOptions())(DROPPED[reason][kind]) == reason


def test_a_limit_of_one_switches_a_filter_off() -> None:
    drop_reason = make_filter(FilterOptions(max_symbols=1, max_repetition=1))
    assert drop_reason("#" * 10_000) is None
    assert drop_reason("spam " * 10_000) is None
    assert drop_reason(" ") == "empty"


def test_lengths_are_in_characters_and_inclusive() -> None:
    drop_reason = make_filter(FilterOptions(min_chars=2, max_chars=4))
    reasons = [drop_reason("\u00e9" * length) for length in (1, 2, 4, 5)]
    assert reasons == ["too short", None, None, "too long"]


def test_limits_that_leave_no_document_are_told() -> None:
    with pytest.raises(UsageError, match=r"at least 10 and at most 9 characters: there are none"):
        FilterOptions(min_chars=10, max_chars=9)


def test_the_hook_is_asked_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hook_asked_last.py").write_text(
        "def rule(text):\n    return 'has an x' if 'x' in text else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    drop_reason = make_filter(FilterOptions(hook="hook_asked_last:rule"))
    assert drop_reason("a box") == "has an x"
    assert drop_reason("a bag") is None
    assert drop_reason("spam x " * 100) == "too repetitive"
    del sys.modules["hook_asked_last"]


@given(text=st.text(st.characters(codec="utf-8"), min_size=1))
@settings(max_examples=300, deadline=None)
def test_the_share_of_symbols_counted_by_hand(text: str) -> None:
    counted = [character for character in text if character > " "]
    symbols = [character for character in counted if character in "#*+<=>@[\\]^_`{|}~"]
    expected = len(symbols) / len(counted) if counted else 0
    assert symbol_share(text.encode()) == pytest.approx(expected)


@given(text=st.text(st.characters(codec="utf-8"), min_size=1))
@settings(max_examples=300, deadline=None)
def test_repetition_stays_below_one(text: str) -> None:
    assert repetition(text, text.encode()) < 1


def test_repetition_does_not_depend_on_the_script() -> None:
    """English, letter by letter in Cyrillic, Devanagari, Ethiopic and Chinese characters."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").lower()
    expected = repetition(text, text.encode())
    for first in "\u0430\u0915\u1208\u4e00":
        letters = {ord("a") + number: ord(first) + number for number in range(26)}
        text_in_script = text.translate(letters)
        found = repetition(text_in_script, text_in_script.encode())
        assert found == pytest.approx(expected, abs=0.02)


def test_documentation_is_kept() -> None:
    """The corpus of the README's demo, if it has been made: nothing but boilerplate may go."""
    path = ROOT / "corpora" / "demo.jsonl"
    if not path.exists():
        pytest.skip(f"{path} has not been made; 'make demo' makes it")
    drop_reason = make_filter(FilterOptions())
    with path.open(encoding="utf-8") as lines:
        reasons = Counter(drop_reason(json.loads(line)["text"]) for line in lines)
    assert reasons[None] >= 0.998 * reasons.total()
