"""Training a tokenizer.

Two kinds, each with its family's special tokens at ids 0 to 4:

    bpe        byte-level BPE as in RoBERTa:  <s> X </s>
    wordpiece  WordPiece as in BERT:          [CLS] X [SEP]

The result is a Hugging Face tokenizer directory, and the same bytes for the same texts and options.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, WordPieceTrainer

from data_prep.errors import DataError, UsageError
from data_prep.files import write_atomically, write_json_atomically
from data_prep.tokenizing.directory import CONFIG_FILE, TOKENIZER_FILE, transformers_config
from data_prep.tokenizing.special_tokens import Role

Kind = Literal["bpe", "wordpiece"]

MODEL_MAX_LENGTH = 512  # what AutoTokenizer truncates to when asked; of no effect on preparation
_MAX_WORDPIECE_CHARACTERS = 1000  # rarer ones become [UNK]
_TEXTS_PER_STEP = 256

_SPECIAL_TOKENS: dict[Kind, dict[Role, str]] = {
    "bpe": {
        "bos": "<s>",
        "pad": "<pad>",
        "eos": "</s>",
        "unk": "<unk>",
        "mask": "<mask>",
        "cls": "<s>",
        "sep": "</s>",
    },
    "wordpiece": {
        "pad": "[PAD]",
        "unk": "[UNK]",
        "cls": "[CLS]",
        "sep": "[SEP]",
        "mask": "[MASK]",
    },
}


@dataclass(frozen=True)
class TokenizerOptions:
    """What determines a trained tokenizer besides its texts."""

    kind: Kind
    vocab_size: int
    min_frequency: int
    lowercase: bool


def train_tokenizer(texts: Callable[[], Iterable[str]], options: TokenizerOptions) -> Tokenizer:
    """Learn a vocabulary.

    Args:
        texts: Called for each pass over the corpus (one for bpe, two for wordpiece).
        options: See TokenizerOptions.

    Returns:
        A tokenizer with the kind's special tokens and post-processor.

    Raises:
        UsageError: `vocab_size` cannot hold the special tokens and the alphabet.
        DataError: There is no text.
    """
    train = _train_bpe if options.kind == "bpe" else _train_wordpiece
    has_text = False

    def noted() -> Iterator[str]:
        nonlocal has_text
        for text in texts():
            has_text = has_text or bool(text.strip())
            yield text

    tokenizer = train(noted, options)
    if not has_text:
        raise DataError("the inputs hold no text to learn from")
    if tokenizer.get_vocab_size() > options.vocab_size:
        raise UsageError(
            f"--vocab-size {options.vocab_size} is too small: special tokens and alphabet alone take "
            f"{_smallest_vocab_size(tokenizer)}; use that or more"
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, kind: Kind, out: Path, overwrite: bool) -> None:
    """Write a Hugging Face tokenizer directory.

    Raises:
        UsageError: `out` holds another tokenizer and `overwrite` is false.
    """
    serialized = tokenizer.to_str(pretty=True) + "\n"
    present = out / TOKENIZER_FILE
    if present.is_file() and not overwrite and present.read_text(encoding="utf-8") != serialized:
        raise UsageError(f"{out} holds another tokenizer; name another --out, or replace it with --overwrite")
    types = ["token_type_ids"] if kind == "wordpiece" else []
    inputs = ["input_ids", *types, "attention_mask"]
    config = transformers_config(tokenizer, _SPECIAL_TOKENS[kind], inputs, MODEL_MAX_LENGTH)
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomically(out / CONFIG_FILE, config)
    write_atomically(present, serialized)


def check_tokenizer_out(out: Path) -> None:
    """Refuse an output that is in use for something else, before hours of training."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a directory")
    if out.is_dir() and any(out.iterdir()) and not (out / TOKENIZER_FILE).is_file():
        raise UsageError(f"--out {out} is not empty and holds no tokenizer; name another directory")


def _special_tokens(kind: Kind) -> list[AddedToken]:
    """In the order of their ids. As in RoBERTa, <mask> takes the space before it with it."""
    names = dict.fromkeys(_SPECIAL_TOKENS[kind].values())
    return [
        AddedToken(name, lstrip=kind == "bpe" and name == "<mask>", normalized=False, special=True)
        for name in names
    ]


def _train_bpe(texts: Callable[[], Iterable[str]], options: TokenizerOptions) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if options.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=_special_tokens("bpe"),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_steps(texts()), trainer)
    vocabulary = tokenizer.get_vocab()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]),
        ("<s>", vocabulary["<s>"]),
        trim_offsets=True,
        add_prefix_space=False,
    )
    return tokenizer


def _train_wordpiece(texts: Callable[[], Iterable[str]], options: TokenizerOptions) -> Tokenizer:
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=options.lowercase, strip_accents=False)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The trainer numbers "##a", "##b", ... in the order of a hash table seeded afresh in every process.
    # Handing them over as special tokens fixes their ids and so every later choice between equals;
    # the vocabulary then goes into a tokenizer where they are ordinary.
    alphabet = _alphabet(texts(), learner.normalizer)
    trainer = WordPieceTrainer(
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=[*_special_tokens("wordpiece"), *(f"##{character}" for character in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(_steps(texts()), trainer)
    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = learner.normalizer, learner.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(_special_tokens("wordpiece"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _alphabet(texts: Iterable[str], normalizer: normalizers.Normalizer) -> list[str]:
    """The most frequent characters left by the normalizer, sorted."""
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text)
    counts: Counter[str] = Counter()
    for character, count in raw.items():
        for normal in normalizer.normalize_str(character):
            if not normal.isspace():
                counts[normal] += count
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return sorted(ranked[:_MAX_WORDPIECE_CHARACTERS])


def _steps(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists: one call into the library per list."""
    iterator = iter(texts)
    while step := list(islice(iterator, _TEXTS_PER_STEP)):
        yield step


def _smallest_vocab_size(tokenizer: Tokenizer) -> int:
    """Special tokens and single characters: what training starts from."""
    special = tokenizer.get_added_tokens_decoder()
    characters = [
        token for token, index in tokenizer.get_vocab().items() if len(token.removeprefix("##")) == 1
    ]
    return len(special) + len(characters)
