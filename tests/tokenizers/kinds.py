"""Tokenizer directories of every kind: as classes of transformers save them, and as people have them.

The second sort names a class, or a model type, that would rebuild the tokenizer otherwise than its
tokenizer.json says. That is where two readings differ.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from data_prep.tokenizing.probe_texts import PROBE_TEXTS

TEXTS = [
    *PROBE_TEXTS,
    "The naïve doctor sees seven maps at the Café in KÖLN, and 12 more maps.",
    "Whoever reads <mask> or [MASK] or </s> in a manual reads ordinary text.",
    "A farmer sees a letter in the morning; the letter is not for the farmer.",
    "def tokenize(text: str) -> list[int]:  # two  spaces\n\treturn [ord(c) for c in text]",
    "Žluťoučký kůň pěl ďábelské ódy. ẹ̀kọ́ ọmọ. Straße, ΣΊΣΥΦΟΣ, İstanbul.",
]
_TRAINED_ON = TEXTS * 4
_VOCAB_SIZE = 400

# Those of transformers that can be made without files of their own.
_CLASSES = [
    *("AlbertTokenizer", "BartTokenizer", "BarthezTokenizer", "BertTokenizer", "BigBirdTokenizer"),
    *("BlenderbotTokenizer", "CLIPTokenizer", "CamembertTokenizer", "CodeLlamaTokenizer"),
    *("CohereTokenizer", "DPRQuestionEncoderTokenizer", "DebertaTokenizer", "DebertaV2Tokenizer"),
    *("FNetTokenizer", "FunnelTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "GemmaTokenizer"),
    *("HerbertTokenizer", "LEDTokenizer", "LayoutLMv2Tokenizer", "LayoutLMv3Tokenizer"),
    *("LayoutXLMTokenizer", "LlamaTokenizer", "LukeTokenizer", "LxmertTokenizer", "MBart50Tokenizer"),
    *("MBartTokenizer", "MPNetTokenizer", "MobileBertTokenizer", "MvpTokenizer", "NllbTokenizer"),
    *("NougatTokenizer", "OpenAIGPTTokenizer", "Qwen2Tokenizer", "ReformerTokenizer", "RemBertTokenizer"),
    *("RobertaTokenizer", "SeamlessM4TTokenizer", "SplinterTokenizer", "T5Tokenizer", "UdopTokenizer"),
    *("WhisperTokenizer", "XGLMTokenizer", "XLMRobertaTokenizer", "XLNetTokenizer"),
]

ROBERTA = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>", "unk": "<unk>"}
BERT = {role: f"[{role.upper()}]" for role in ROBERTA}
LLAMA = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def _trained(
    model: Any, trainer: Any, special: dict[str, str], normalizer: Any, pre_tokenizer: Any
) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(_TRAINED_ON, trainer)
    cls, sep = special["cls"], special["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return tokenizer


def wordpiece(lowercase: bool, strip_accents: bool = False) -> Tokenizer:
    arguments = {"vocab_size": _VOCAB_SIZE, "special_tokens": list(BERT.values()), "show_progress": False}
    normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    trainer = trainers.WordPieceTrainer(**arguments)
    return _trained(
        models.WordPiece(unk_token="[UNK]"), trainer, BERT, normalizer, pre_tokenizers.BertPreTokenizer()
    )


def byte_level(normalizer: Any = None, prefix_space: bool = False) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_SIZE,
        special_tokens=list(ROBERTA.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    return _trained(models.BPE(), trainer, ROBERTA, normalizer, pre_tokenizer)


def unigram(normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=_VOCAB_SIZE, special_tokens=list(ROBERTA.values()), unk_token="<unk>", show_progress=False
    )
    return _trained(
        models.Unigram(), trainer, ROBERTA, normalizer, pre_tokenizer or pre_tokenizers.Metaspace()
    )


def byte_fallback() -> Tokenizer:
    special = [*ROBERTA.values(), *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=_VOCAB_SIZE, special_tokens=special, show_progress=False)
    return _trained(models.BPE(unk_token="<unk>", byte_fallback=True), trainer, ROBERTA, LLAMA, None)


def words() -> Tokenizer:
    trainer = trainers.WordLevelTrainer(special_tokens=list(ROBERTA.values()), show_progress=False)
    return _trained(
        models.WordLevel(unk_token="<unk>"), trainer, ROBERTA, None, pre_tokenizers.WhitespaceSplit()
    )


def with_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_tokens([AddedToken("letter", single_word=True), AddedToken("maps at", rstrip=True)])
    tokenizer.add_special_tokens(["<domain>"])
    return tokenizer


def without_post_processor(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return tokenizer


def _named(special: dict[str, str], **config: Any) -> dict[str, Any]:
    return config | {f"{role}_token": token for role, token in special.items()}


Files = dict[str, dict[str, Any]]
CONFIG = "tokenizer_config.json"
# name -> (tokenizer.json, the files beside it)
_MADE: dict[str, tuple[Callable[[], Tokenizer], Files]] = {
    "cased, BertTokenizer": (
        partial(wordpiece, False),
        {CONFIG: _named(BERT, tokenizer_class="BertTokenizer")},
    ),
    "cased, bert": (partial(wordpiece, False), {CONFIG: {}, "config.json": {"model_type": "bert"}}),
    "uncased, BertTokenizer": (
        partial(wordpiece, True, True),
        {CONFIG: _named(BERT, tokenizer_class="BertTokenizer", do_lower_case=True)},
    ),
    "uncased with accents, electra": (
        partial(wordpiece, True),
        {CONFIG: _named(BERT), "config.json": {"model_type": "electra"}},
    ),
    "cased, DistilBertTokenizer": (
        partial(wordpiece, False),
        {CONFIG: _named(BERT, tokenizer_class="DistilBertTokenizer")},
    ),
    "lower case, RobertaTokenizer": (
        partial(byte_level, normalizers.Lowercase()),
        {CONFIG: _named(ROBERTA, tokenizer_class="RobertaTokenizer")},
    ),
    "lower case, roberta": (
        partial(byte_level, normalizers.Lowercase()),
        {CONFIG: _named(ROBERTA), "config.json": {"model_type": "roberta"}},
    ),
    "prefix space, RobertaTokenizerFast": (
        partial(byte_level, None, True),
        {CONFIG: _named(ROBERTA, tokenizer_class="RobertaTokenizerFast")},
    ),
    "NFKC, BartTokenizer": (
        partial(byte_level, normalizers.NFKC()),
        {CONFIG: _named(ROBERTA, tokenizer_class="BartTokenizer")},
    ),
    "byte-level, ModernBERT": (
        byte_level,
        {CONFIG: _named(ROBERTA), "config.json": {"model_type": "modernbert"}},
    ),
    "Unigram, XLMRobertaTokenizer": (
        unigram,
        {CONFIG: _named(ROBERTA, tokenizer_class="XLMRobertaTokenizer")},
    ),
    "Unigram, CamembertTokenizer": (
        partial(unigram, normalizers.NFKC()),
        {CONFIG: _named(ROBERTA, tokenizer_class="CamembertTokenizer")},
    ),
    "Unigram, AlbertTokenizer": (
        partial(unigram, normalizers.Lowercase()),
        {CONFIG: _named(ROBERTA, tokenizer_class="AlbertTokenizer")},
    ),
    "Unigram, deberta-v2": (
        partial(unigram, None, pre_tokenizers.Metaspace(prepend_scheme="first")),
        {CONFIG: _named(ROBERTA), "config.json": {"model_type": "deberta-v2"}},
    ),
    "byte fallback, LlamaTokenizer": (
        byte_fallback,
        {CONFIG: _named(ROBERTA, tokenizer_class="LlamaTokenizer")},
    ),
    "words": (words, {CONFIG: _named(ROBERTA)}),
    "added tokens, BertTokenizer": (
        lambda: with_added_tokens(wordpiece(lowercase=False)),
        {CONFIG: _named(BERT, tokenizer_class="BertTokenizer")},
    ),
    "added tokens, RobertaTokenizer": (
        lambda: with_added_tokens(byte_level()),
        {CONFIG: _named(ROBERTA, tokenizer_class="RobertaTokenizer")},
    ),
    "no post-processor": (lambda: without_post_processor(byte_level()), {CONFIG: _named(ROBERTA)}),
    "nothing but tokenizer.json": (partial(wordpiece, False), {}),
    "special tokens map": (byte_level, {"special_tokens_map.json": _named(ROBERTA)}),
    "left": (byte_level, {CONFIG: _named(ROBERTA, padding_side="left", truncation_side="left")}),
}

NAMES = [*(name for name in _CLASSES if hasattr(transformers, name)), *_MADE]
# A few whose readings differ, one for each model behind them.
FEW = [
    "cased, BertTokenizer",
    "lower case, roberta",
    "Unigram, CamembertTokenizer",
    "byte fallback, LlamaTokenizer",
]


def make(name: str, path: Path) -> None:
    """Write the directory of a kind."""
    if name not in _MADE:
        trained = getattr(transformers, name)().train_new_from_iterator(_TRAINED_ON, _VOCAB_SIZE)
        trained.save_pretrained(path)
        return
    tokenizer, files = _MADE[name]
    path.mkdir()
    tokenizer().save(str(path / "tokenizer.json"))
    for file, content in files.items():
        (path / file).write_text(json.dumps(content))


def family_of(tokenizer: Tokenizer) -> str:
    """An encoder family that people train with such a tokenizer."""
    kind = json.loads(tokenizer.to_str())["model"]["type"]
    return {"WordPiece": "bert", "Unigram": "roberta", "BPE": "roberta", "WordLevel": "modernbert"}[kind]
