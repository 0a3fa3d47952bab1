"""Encoding: what both backends must give, and when the faster one may be used."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from data_prep.__main__ import main
from data_prep.errors import UsageError
from data_prep.tokenizing import encoder
from data_prep.tokenizing.encoder import (
    GigatokenEncoder,
    HuggingFaceEncoder,
    choose_backend,
    first_difference,
)

TEXTS = [
    "ka romi ten",
    "a <mask> b</s>",
    "",
    "\u1eb9\u0301 \u00f2 k\u00e0",
    "x\n\n  y\t z",
    "sul" * 50,
    "\u0000",
]


@pytest.fixture(scope="module")
def reference(tokenizer_dir: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def split(encoded: encoder.Encoded) -> list[list[int]]:
    return [ids.tolist() for ids in np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])]


def test_ids_are_the_tokenizers(tokenizer_dir: Path, reference: Tokenizer) -> None:
    expected = [reference.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert split(HuggingFaceEncoder(tokenizer_dir).encode(TEXTS)) == expected
    assert all(min(ids, default=5) > 4 for ids in expected)


def test_no_text_is_no_error(tokenizer_dir: Path) -> None:
    encoded = HuggingFaceEncoder(tokenizer_dir).encode([])
    assert len(encoded.ids) == len(encoded.lengths) == 0


def test_the_fast_backend_gives_the_same(tokenizer_dir: Path) -> None:
    pytest.importorskip("gigatoken", reason="the optional backend is not installed")
    fast, slow = GigatokenEncoder(tokenizer_dir), HuggingFaceEncoder(tokenizer_dir)
    assert split(fast.encode(TEXTS)) == split(slow.encode(TEXTS))
    assert first_difference(fast, slow, TEXTS) is None
    assert choose_backend("auto", tokenizer_dir, TEXTS) == ("gigatoken", None)


def test_a_backend_that_differs_is_not_used(tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(HuggingFaceEncoder):
        def encode(self, texts: list[str]) -> encoder.Encoded:
            return super().encode([text.replace("sul", "lus") for text in texts])

    monkeypatch.setattr(encoder, "GigatokenEncoder", Wrong)
    assert choose_backend("auto", tokenizer_dir, ["ka"]) == ("gigatoken", None)
    backend, warning = choose_backend("auto", tokenizer_dir, ["ka", "sul ka"])
    assert backend == "huggingface"
    assert warning == "gigatoken gives other tokens for 'sul ka'; the ordinary tokenizer is used"
    assert choose_backend("huggingface", tokenizer_dir, []) == ("huggingface", None)


def test_a_backend_that_is_not_there(tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(tokenizer_dir: Path) -> None:
        raise ImportError("No module named 'gigatoken'")

    monkeypatch.setattr(encoder, "GigatokenEncoder", missing)
    assert choose_backend("auto", tokenizer_dir, TEXTS) == ("huggingface", None)
    with pytest.raises(UsageError, match=r"--backend gigatoken: No module .* pip install 'lodestar\[fast\]'"):
        choose_backend("gigatoken", tokenizer_dir, TEXTS)


def test_a_wordpiece_tokenizer_takes_the_ordinary_way(documents_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "wordpiece"
    train = ["tokenizer", str(documents_file), "--out", str(out), "--kind", "wordpiece"]
    assert main([*train, "--vocab-size", "200"]) == 0
    assert choose_backend("auto", out, TEXTS)[0] == "huggingface"
