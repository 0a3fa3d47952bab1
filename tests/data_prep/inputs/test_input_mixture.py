"""Mixtures: what they may say, and that all their mistakes are told together."""

from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.inputs.mixture import read_mixture
from data_prep.inputs.sources import Source


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.txt", "a/2.txt", "b.jsonl"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    return Path("mix.yaml")


BOTH = """
- name: books
  inputs: [a]
  text_documents: block
  repeat: 2
- {name: wiki, inputs: b.jsonl, text_field: [title, text], encoding: UTF16, repeat: 0.5}
"""


@pytest.mark.parametrize("head", ["", "sources:"])
def test_a_mixture(write: Path, head: str) -> None:
    write.write_text(head + BOTH)
    assert read_mixture(write) == [
        Source("books", (Path("a/1.txt"), Path("a/2.txt")), ("text",), "block", 2.0),
        Source("wiki", (Path("b.jsonl"),), ("title", "text"), "file", 0.5, encoding="utf-16"),
    ]


def test_all_problems_are_told_at_once(write: Path) -> None:
    write.write_text(
        """
- {name: books, inputs: a, repet: 2}
- {name: more, inputs: [gone.txt], repeat: 1}
- {inputs: [], repeat: -1, text_documents: lines}
- {name: books, inputs: [a/1.txt, b.jsonl]}
- {name: books, inputs: b.jsonl, text_field: 3, colour: red}
- just text
- {name: last, inputs: b.jsonl, repeat: .inf}
- {name: very last, inputs: ./b.jsonl, repeat: "2"}
- {name: books, inputs: ./b.jsonl}
- {name: coded, inputs: b.jsonl, encoding: base64}
"""
    )
    with pytest.raises(DataError) as caught:
        read_mixture(write)
    assert str(caught.value).splitlines() == [
        "mixture mix.yaml has 14 problems:",
        "  - entry 1 (books): repet: unknown key; did you mean repeat?",
        "  - entry 2 (more): inputs: gone.txt: no such file or directory",
        "  - entry 3: name: is required; add it",
        "  - entry 3: inputs: found [], should be a text or a list of texts, none of them empty",
        "  - entry 3: text_documents: found 'lines', should be 'file', 'block' or 'line'",
        "  - entry 3: repeat: found -1, should be greater than 0",
        "  - entry 5 (books): text_field: found 3, should be a text or a list of texts, none of them empty",
        "  - entry 5 (books): colour: unknown key; "
        "an entry has name, inputs, text_field, text_documents, quoting, encoding, repeat",
        f"  - entry 6: found 'just text', should be keys and values, like {EXAMPLE}",
        "  - entry 7 (last): repeat: found inf, should be a finite number",
        "  - entry 8 (very last): repeat: found '2', should be a valid number",
        "  - entry 9 (books): name: another entry has this name; give each its own",
        "  - entry 9 (books): inputs: b.jsonl is also in entry 'books'; use repeat to see it more often",
        "  - entry 10 (coded): encoding: 'base64' is not the encoding of a text file; expected one that "
        "Python knows, such as utf-8, cp1252, utf-16-le or shift_jis, or auto",
    ]


EXAMPLE = "'- {name: books, inputs: [corpora/books], repeat: 2}'"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "expected a list of sources, like .*; found nothing"),
        ("[]", "found nothing"),
        ("text", "found a str"),
        ("source: []", "found the keys source"),
        ("sources: []\nmore: 1", "found the keys sources, more"),
        ("- name: a\n  name: b\n", "not readable YAML: .*'name' is written twice"),
        ("- {1: a}", "not readable YAML: 1 is not a name"),
        ("- [", "not readable YAML"),
        ("[" * 3000, "nested too deeply"),
        ("- &a {name: x, inputs: *a}", "not readable YAML|found"),
        ("\x00", "not readable YAML"),
    ],
)
def test_what_is_no_mixture(write: Path, content: str, told: str) -> None:
    write.write_text(content)
    with pytest.raises(DataError, match=f"(?s)mixture mix.yaml.*{told}"):
        read_mixture(write)


def test_a_mixture_that_is_not_there(write: Path) -> None:
    with pytest.raises(DataError, match=r"mixture mix\.yaml: cannot be read: No such file"):
        read_mixture(write)
