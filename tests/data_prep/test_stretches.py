"""Cutting long texts: stretches and whole text give equal tokens, with every kind of tokenizer."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_prep.tokenizing.stretches import Stretches

TRAINED_ON = ["karo miten sul ba, karo! ten ro\nka 12 ko.", "sul karo  ba\tmi ten"] * 4


def trained(model: str, normalizer: object, pre_tokenizer: object) -> Tokenizer:
    tokenizer = Tokenizer(
        {
            "bpe": models.BPE(unk_token="<unk>"),
            "bytes": models.BPE(unk_token="<unk>", byte_fallback=True),
            "wordpiece": models.WordPiece(unk_token="<unk>"),
            "unigram": models.Unigram(),
            "words": models.WordLevel(unk_token="<unk>"),
        }[model]
    )
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    arguments = {"special_tokens": ["<unk>"], "show_progress": False}
    trainer = {
        "bpe": trainers.BpeTrainer(vocab_size=60, **arguments),
        "bytes": trainers.BpeTrainer(vocab_size=60, **arguments),
        "wordpiece": trainers.WordPieceTrainer(vocab_size=60, **arguments),
        "unigram": trainers.UnigramTrainer(vocab_size=40, unk_token="<unk>", **arguments),
        "words": trainers.WordLevelTrainer(vocab_size=60, **arguments),
    }[model]
    tokenizer.train_from_iterator(TRAINED_ON, trainer)
    return tokenizer


def byte_level(prefix: bool = False) -> object:
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix)


GPT_4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
BERT = normalizers.BertNormalizer(lowercase=True)

# name -> (model, normalizer, pre-tokenizer, whether it can be cut at all)
KINDS: dict[str, tuple[str, object, object, bool]] = {
    "byte-level": ("bpe", None, byte_level(), True),
    "byte-level, lower case": ("bpe", normalizers.Lowercase(), byte_level(), True),
    "byte-level, prefix space": ("bpe", None, byte_level(prefix=True), True),
    "byte-level, stripped": ("bpe", normalizers.Strip(), byte_level(), False),
    "WordPiece": ("wordpiece", BERT, pre_tokenizers.BertPreTokenizer(), True),
    "WordPiece, cased": ("wordpiece", normalizers.NFC(), pre_tokenizers.Whitespace(), True),
    "Unigram": ("unigram", normalizers.NFKC(), pre_tokenizers.Metaspace(), True),
    "Unigram, first": ("unigram", None, pre_tokenizers.Metaspace(prepend_scheme="first"), True),
    "Unigram, never": ("unigram", None, pre_tokenizers.Metaspace(prepend_scheme="never"), True),
    "Unigram, white space first": (
        "unigram",
        None,
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        True,
    ),
    "Unigram, not split": ("unigram", None, pre_tokenizers.Metaspace(split=False), False),
    "byte fallback": ("bytes", LLAMA, None, False),
    "no pre-tokenizer": ("bpe", None, None, False),
    "words": ("words", None, pre_tokenizers.WhitespaceSplit(), True),
    "counted from the beginning": ("bpe", None, pre_tokenizers.FixedLength(length=4), False),
    "pairs of words": ("bpe", None, pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated"), False),
    "between quotes": (
        "bpe",
        normalizers.Replace(Regex('"[^"]*"'), "Q"),
        pre_tokenizers.Whitespace(),
        False,
    ),
    "GPT-4": (
        "bpe",
        None,
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(GPT_4), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
        ),
        True,
    ),
    "one space": ("bpe", None, pre_tokenizers.Split(" ", "merged_with_next"), True),
    "digits": ("bpe", None, pre_tokenizers.Sequence([pre_tokenizers.Digits(), byte_level()]), True),
}
TOKENIZERS = {name: trained(*parts) for name, (*parts, _) in KINDS.items()}
for _added in ("byte-level", "WordPiece", "Unigram"):
    TOKENIZERS[f"{_added}, added tokens"] = added = Tokenizer.from_str(TOKENIZERS[_added].to_str())
    added.add_tokens(
        ["ro ka", AddedToken("sul", rstrip=True), AddedToken("ba", lstrip=True, single_word=True)]
    )

texts = st.lists(
    st.sampled_from(
        [
            "karo",
            "mi",
            "sul",
            "ba",
            "ten",
            '"',
            " ",
            "  ",
            "\n",
            "\t",
            "\r\n",
            ".",
            "12",
            "K",
            "\u00e9",
            "\u4e2d",
        ]
    ),
    max_size=40,
).map("".join) | st.text("karo sul\n\tB.\u3000\u0301", max_size=60)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", TOKENIZERS)
def test_stretches_give_the_tokens_of_the_whole_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]

    @given(texts, st.integers(1, 12))
    def check(text: str, limit: int) -> None:
        stretches = Stretches(tokenizer, limit).of(text)
        assert [token for one in stretches for token in ids(tokenizer, one)] == ids(tokenizer, text)

    check()


@pytest.mark.parametrize("name", KINDS)
def test_ordinary_text_is_cut_where_it_can_be(name: str) -> None:
    """Or a long document would be encoded in one piece, which takes much memory."""
    text = "karo sul ba. " * 50
    stretches = Stretches(TOKENIZERS[name], 100).of(text)
    if KINDS[name][-1]:
        assert max(map(len, stretches)) <= 100
    else:
        assert stretches == [text]


def test_byte_level_text_is_cut_before_white_space(tokenizer_dir: Path) -> None:
    """So it was always; corpora that were made so stay the same, byte for byte."""
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    assert Stretches(tokenizer, 10).of("karo miten\n sul ba") == ["karo miten", "\n sul ba"]
    assert Stretches(tokenizer, 9).of("karo miten\n sul ba") == ["karo", " miten", "\n sul ba"]


def test_text_without_white_space_is_one_stretch(tokenizer_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    assert Stretches(tokenizer, 10).of("karo" * 20) == ["karo" * 20]
