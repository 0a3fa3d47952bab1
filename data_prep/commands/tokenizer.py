"""`python -m data_prep tokenizer`."""

import argparse
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from data_prep.arguments import Parser, Subparsers, add_command, add_inputs, whole

_VOCAB_SIZE = 32_768
_SHOWN_DAMAGE = 3


def add(commands: "Subparsers[Parser]") -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "tokenizer",
        "train a tokenizer",
        "Train a tokenizer and save it as a Hugging Face tokenizer directory. The same inputs and options\n"
        "give the same tokenizer. A sample of a large corpus is enough: a few gigabytes of text.",
        "'corpora/*.jsonl.zst' --out corpora/tok --vocab-size 32768",
    )
    add_inputs(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="tokenizer directory to write")
    parser.add_argument(
        "--kind",
        choices=("bpe", "wordpiece"),
        default="bpe",
        help="bpe: byte-level, <s> X </s>, as RoBERTa; wordpiece: [CLS] X [SEP], as BERT "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--vocab-size",
        type=whole(1),
        default=_VOCAB_SIZE,
        metavar="N",
        help="entries, special tokens included; up to 65536 are stored in 16 bits, and a multiple of 64 "
        "suits GPUs (default: %(default)s)",
    )
    parser.add_argument(
        "--min-frequency",
        type=whole(1),
        default=2,
        metavar="N",
        help="a pair seen less often is not merged (default: %(default)s)",
    )
    parser.add_argument("--lowercase", action="store_true", help="lower-case all text")
    parser.add_argument(
        "--unicode",
        choices=("nfc", "nfkc", "none"),
        default="nfc",
        help="normalize texts as 'shard' will (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a different tokenizer in DIR")


def run(arguments: argparse.Namespace, command: str) -> None:
    """Carry it out."""
    from data_prep.cleaning.normalize import clean_text
    from data_prep.commands.reading import read_inputs
    from data_prep.inputs.damage import Damage
    from data_prep.inputs.texts import read_texts, total_bytes
    from data_prep.progress import progress_bar
    from data_prep.tokenizing.training import (
        TokenizerOptions,
        check_tokenizer_out,
        save_tokenizer,
        train_tokenizer,
    )

    # The library that learns does not look up before it is done; nothing is written before that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    check_tokenizer_out(arguments.out)
    sources = read_inputs(arguments)
    total = total_bytes(sources)
    num_documents = 0
    damaged: list[Damage] = []

    def texts() -> Iterator[str]:
        nonlocal num_documents
        num_documents = 0
        damaged.clear()
        with progress_bar("read", total, "B") as bar:
            for record, position in read_texts(sources):
                bar.update(position - bar.n)
                if isinstance(record, Damage):
                    damaged.append(record)
                else:
                    num_documents += 1
                    yield clean_text(record, arguments.unicode)
            bar.update(total - bar.n)

    options = TokenizerOptions(
        kind=arguments.kind,
        vocab_size=arguments.vocab_size,
        min_frequency=arguments.min_frequency,
        lowercase=arguments.lowercase,
    )
    try:
        tokenizer = train_tokenizer(texts, options)
    finally:
        for damage in damaged[:_SHOWN_DAMAGE]:
            print(f"warning: {damage.where}: {damage.reason}: {damage.detail}", file=sys.stderr)
        if len(damaged) > _SHOWN_DAMAGE:
            print(f"warning: {len(damaged):,} records are damaged in all and left out", file=sys.stderr)
    save_tokenizer(tokenizer, arguments.kind, arguments.out, arguments.overwrite)
    num_entries = tokenizer.get_vocab_size()
    read = f"{num_documents:,} documents, {total / 1e6:,.1f} MB of files"
    print(f"{arguments.out}: {arguments.kind} tokenizer with {num_entries:,} entries, from {read}")
    if num_entries < arguments.vocab_size:
        print(
            f"warning: {arguments.vocab_size:,} were asked for; the text has no more pairs seen at least "
            f"{arguments.min_frequency} times",
            file=sys.stderr,
        )
