"""The sample corpus: real prose, the same every time, nothing imported for it."""

import hashlib
import json
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.sample import MIN_CHARACTERS, SourceFile, documents_of, prose


def test_prose_keeps_sentences_and_drops_code() -> None:
    docstring = """First line.

    A sentence that runs on and on until it meets the margin of
    the page, and ends here.
    - an item

    Example::

        code = not(prose)

        more = code

    =====  =====
    Heading
    -----
    >>> 1 + 1
    2
    ```python
    import torch
    ```
    Last line.
    """
    joined = "A sentence that runs on and on until it meets the margin of the page, and ends here."
    assert prose(docstring) == f"First line.\n\n{joined}\n- an item\n\nExample::\n\nHeading\n\nLast line."


def test_documents_of_a_source_file(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        '"""Module."""\nraise SystemExit("imported")\n'
        'def f():\n    """Function."""\n'
        'class C:\n    """Class."""\n    def m(self):\n        """Method."""\n'
        '    class D:\n        """Inner."""\n'
    )
    assert [tuple(document) for document in documents_of(SourceFile("pkg.source", source))] == [
        ("pkg.source", ["Module.", "Function."]),
        ("pkg.source.C", ["Class.", "Method."]),
        ("pkg.source.C.D", ["Inner."]),
    ]
    source.write_text("print 'python 2'\n")
    assert documents_of(SourceFile("pkg.source", source)) == []


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "new" / "sample.jsonl"
    assert main(["sample", str(out), "--max-bytes", "2_000_000"]) == 0
    return out


def test_the_sample_is_full_of_distinct_english_documents(sample: Path) -> None:
    assert 1_900_000 < sample.stat().st_size <= 2_000_000
    documents = [json.loads(line) for line in sample.read_text(encoding="utf-8").splitlines()]
    assert all(set(document) == {"id", "text"} for document in documents)
    assert all(len(document["text"]) >= MIN_CHARACTERS for document in documents)
    assert len({document["text"] for document in documents}) == len(documents)
    assert len({document["id"].split(".")[0] for document in documents}) > 20
    words = " ".join(document["text"] for document in documents).split()
    assert words.count("the") / len(words) > 0.03
    assert not any(line.startswith(">>>") for document in documents for line in document["text"].splitlines())


def test_a_smaller_sample_is_the_beginning_of_a_larger_one(sample: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.jsonl"
    assert main(["sample", str(small), "--max-bytes", "500000"]) == 0
    content = small.read_bytes()
    beginning = sample.read_bytes()[: len(content)]
    assert hashlib.sha256(content).digest() == hashlib.sha256(beginning).digest()
    assert [path.name for path in tmp_path.iterdir()] == ["small.jsonl"]
