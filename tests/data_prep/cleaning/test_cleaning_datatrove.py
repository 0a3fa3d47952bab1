"""The published rules as hooks; where datatrove is not installed, how that is told."""

import importlib.util
import sys

import pytest

from data_prep.cleaning import datatrove_filters
from data_prep.cleaning.hook import load_hook
from data_prep.errors import UsageError

MODULE = "data_prep.cleaning.datatrove_filters"
NAMES = ["gopher_quality", "gopher_repetition", "c4_quality", "fineweb_quality"]
PROSE = (
    "The ship had been at sea for nine days when the captain saw the coast. It was a long grey line, and "
    "nobody could tell whether there was a harbour behind it.\nHe asked the mate to take the glass and "
    'look for smoke. "There is a tower to the north," said the mate, who had better eyes than he had.\n'
    "They turned the ship and went slowly towards it with the wind behind them. By the evening they "
    "could see the houses, the boats on the beach and a few people that waved at them.\n"
)
needs_datatrove = pytest.mark.skipif(
    importlib.util.find_spec("datatrove") is None,
    reason="datatrove is not installed: pip install 'lodestar[datatrove]'",
)


@needs_datatrove
@pytest.mark.parametrize("name", NAMES)
def test_prose_is_kept(name: str) -> None:
    assert load_hook(f"{MODULE}:{name}")(PROSE) is None


@needs_datatrove
@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("gopher_quality", "Too short.", "gopher: short_doc"),
        ("gopher_quality", PROSE.replace(" ", " # "), "gopher: too_many_hashes"),
        ("gopher_quality", "der Hund liegt auf dem Sofa " * 20, "gopher: enough_stop_words"),
        ("gopher_repetition", PROSE * 3, "gopher: dup_line_frac"),
        ("gopher_repetition", "to be or not to be " * 20, "gopher: top_2_gram"),
        ("c4_quality", PROSE + "Write {name} in the form.", "c4: curly_bracket"),
        ("c4_quality", "There are two sentences. This is one of them.", "c4: too_few_sentences"),
        ("fineweb_quality", PROSE.replace(".\n", "\n"), "fineweb: line_punct_ratio"),
        ("fineweb_quality", "Home.\nAbout us.\nNews.\nContact.\n", "fineweb: short_line_ratio"),
    ],
)
def test_the_rules_say_why(name: str, text: str, reason: str) -> None:
    assert load_hook(f"{MODULE}:{name}")(text) == reason


@needs_datatrove
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["", " ", "\n", "...", "\u1361\u1208"])
def test_odd_texts_are_dropped_and_do_not_fail(name: str, text: str) -> None:
    assert (load_hook(f"{MODULE}:{name}")(text) or "kept").partition(": ")[0] in {
        "gopher",
        "c4",
        "fineweb",
        "kept",
    }


@needs_datatrove
def test_spacy_is_not_loaded() -> None:
    for name in NAMES:
        load_hook(f"{MODULE}:{name}")(PROSE)
    assert "spacy" not in sys.modules


@pytest.mark.parametrize("name", NAMES)
def test_without_datatrove_the_installation_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datatrove_filters._datatrove_filter.cache_clear()
    for module in [module for module in sys.modules if module.partition(".")[0] == "datatrove"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "datatrove", None)
    with pytest.raises(UsageError, match=r"pip install 'lodestar\[datatrove\]'"):
        load_hook(f"{MODULE}:{name}")(PROSE)
