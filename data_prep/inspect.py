"""A look into a corpus in the terminal: counts, lengths, frequent tokens, rows as text."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from shutil import get_terminal_size

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from data_prep.format import TOKENIZER_NAME, Manifest, Shard, Split, read_manifest
from data_prep.tokenizer import open_tokenizer

_SAMPLED_ROWS = 10_000
_FREQUENT_TOKENS = 20
_BAR_WIDTH = 40
_INDENT = " " * 10


def inspect_corpus(corpus_dir: Path, num_rows: int, seed: int) -> None:
    """Print what a corpus holds.

    Lengths and frequencies come from a random sample of at most 10,000 training rows, so a corpus of any
    size is shown at once. `seed` chooses that sample and the `num_rows` rows printed as text.
    """
    manifest = read_manifest(corpus_dir)
    tokenizer = open_tokenizer(corpus_dir / TOKENIZER_NAME)
    generator = np.random.default_rng(seed)
    _print_counts(corpus_dir, manifest)
    rows = _Rows(corpus_dir, manifest, "train")
    sample = np.sort(generator.choice(len(rows), min(len(rows), _SAMPLED_ROWS), replace=False))
    _print_lengths(rows, sample, manifest.sequence_length)
    _print_frequent_tokens(rows, sample, manifest.vocab_size, tokenizer)
    for row in generator.choice(len(rows), min(len(rows), num_rows), replace=False):
        _print_row(rows, int(row), tokenizer)


class _Rows:
    """A split's rows by number; shards are opened when first needed."""

    def __init__(self, corpus_dir: Path, manifest: Manifest, split: Split) -> None:
        self._paths = [corpus_dir / shard.name for shard in manifest.shards_of(split)]
        self._ends = np.cumsum([shard.rows for shard in manifest.shards_of(split)])
        self._length = manifest.sequence_length
        self._shards: dict[int, Shard] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def pieces(self, row: int) -> Iterator[npt.NDArray]:
        """The row's document pieces, special tokens included; padding is left out."""
        index = int(np.searchsorted(self._ends, row, side="right"))
        if index not in self._shards:
            self._shards[index] = Shard(self._paths[index], self._length)
        shard = self._shards[index]
        row -= int(self._ends[index]) - shard.rows
        ids = shard.input_ids(row)
        start = 0
        for length in shard.segments(row).tolist():
            yield ids[start : start + length]
            start += length


def _print_counts(corpus_dir: Path, manifest: Manifest) -> None:
    documents = manifest.documents
    ids = f"{manifest.vocab_size:,} token ids ({manifest.token_dtype})"
    print(f"{corpus_dir}: rows of {manifest.sequence_length}, {ids}")
    print(f"  made by  {manifest.command}")
    print(f"\n  {'split':8}{'documents':>14}{'rows':>14}{'tokens':>18}{'shards':>8}{'MB':>10}")
    splits: tuple[tuple[Split, int, int], ...] = (
        ("train", documents.train, manifest.train_tokens),
        ("valid", documents.valid, manifest.valid_tokens),
    )
    for split, num_documents, num_tokens in splits:
        shards = manifest.shards_of(split)
        num_rows = sum(shard.rows for shard in shards)
        megabytes = sum(shard.bytes for shard in shards) / 1e6
        print(
            f"  {split:8}{num_documents:14,}{num_rows:14,}{num_tokens:18,}{len(shards):8,}{megabytes:10,.1f}"
        )
    left_out = {"duplicates": documents.duplicates, **documents.dropped}
    told = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    print(f"\n  {documents.read:,} documents read from {len(manifest.inputs):,} files; left out: {told}")


def _print_lengths(rows: _Rows, sample: npt.NDArray, sequence_length: int) -> None:
    lengths = np.array([len(piece) for row in sample.tolist() for piece in rows.pieces(row)])
    edges = [3]
    while edges[-1] <= sequence_length:
        edges.append(1 << edges[-1].bit_length())
    edges[-1] = sequence_length + 1
    counts, _ = np.histogram(lengths, bins=edges)
    print(f"\n  tokens per document piece (median {np.median(lengths):.0f}, {len(sample):,} rows looked at)")
    for low, high, count in zip(edges, edges[1:], counts.tolist()):
        bar = "#" * round(_BAR_WIDTH * count / counts.max())
        print(f"  {low:6,} to {high - 1:6,} {count / len(lengths):7.1%}  {bar}")


def _print_frequent_tokens(rows: _Rows, sample: npt.NDArray, vocab_size: int, tokenizer: Tokenizer) -> None:
    counts = np.zeros(vocab_size, dtype=np.int64)
    for row in sample.tolist():
        for piece in rows.pieces(row):
            np.add.at(counts, piece, 1)
    frequent = np.argsort(-counts, kind="stable")[:_FREQUENT_TOKENS].tolist()
    told = ", ".join(
        f"{tokenizer.decode([token], False)!r} {counts[token] / counts.sum():.1%}" for token in frequent
    )
    print("\n  most frequent tokens")
    print(_wrapped(told, "    "))


def _print_row(rows: _Rows, row: int, tokenizer: Tokenizer) -> None:
    print(f"\n  train row {row:,}, one document piece after the other")
    for piece in rows.pieces(row):
        text = tokenizer.decode(piece.tolist(), skip_special_tokens=False)
        wrapped = _wrapped(text.replace("\n", "\\n"), _INDENT)
        print(f"  {len(piece):6,}  {wrapped[len(_INDENT) :]}")


def _wrapped(text: str, indent: str) -> str:
    width = min(get_terminal_size().columns, 110)
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)
