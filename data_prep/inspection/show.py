"""A corpus in the terminal: counts, lengths, how well the tokenizer fits, frequent tokens, rows as text."""

import textwrap
from pathlib import Path
from shutil import get_terminal_size

import numpy as np

from data_prep.errors import UsageError
from data_prep.format import TOKENIZER_NAME, Manifest, Split, read_manifest
from data_prep.inspection.rows import Sample, SplitRows, look_at
from data_prep.tokenizing.directory import TokenizerDirectory, open_directory

_SAMPLED_ROWS = 10_000
_DECODED_ROWS = 500
_FREQUENT_TOKENS = 20
_BAR_WIDTH = 40
_INDENT = " " * 6


def inspect_corpus(corpus_dir: Path, split: Split, num_rows: int, seed: int, figure: Path | None) -> None:
    """Print what a corpus holds.

    Lengths and frequencies come from a random sample of at most 10,000 rows of the split, so a corpus of any
    size is shown at once.

    Args:
        corpus_dir: A corpus directory.
        split: Whose rows are looked at.
        num_rows: Rows printed as text.
        seed: Chooses the sample and those rows.
        figure: A PNG file to write as well.
    """
    manifest = read_manifest(corpus_dir)
    tokenizer = open_directory(corpus_dir / TOKENIZER_NAME)
    generator = np.random.default_rng(seed)
    _print_counts(corpus_dir, manifest)
    rows = SplitRows(corpus_dir, manifest, split)
    chosen = np.sort(generator.choice(len(rows), min(len(rows), _SAMPLED_ROWS), replace=False))
    sample = look_at(rows, chosen, manifest.vocab_size, tokenizer, _DECODED_ROWS)
    _print_lengths(sample, manifest.sequence_length)
    _print_fit(sample, manifest)
    _print_frequent_tokens(sample, tokenizer)
    for row in generator.choice(len(rows), min(len(rows), num_rows), replace=False):
        _print_row(rows, split, int(row), tokenizer)
    if figure is not None:
        from data_prep.inspection.figure import draw_sample

        title = f"{corpus_dir}: rows of {manifest.sequence_length}, {sample.num_rows:,} of them"
        draw_sample(sample, manifest, title, figure)
        print(f"\n  {figure}: lengths and token frequencies")


def show_rows(corpus_dir: Path, split: Split, numbers: list[int]) -> None:
    """Print the rows of a split with these numbers; a UsageError names those that it does not have."""
    manifest = read_manifest(corpus_dir)
    rows = SplitRows(corpus_dir, manifest, split)
    if unknown := [str(number) for number in numbers if number >= len(rows)]:
        raise UsageError(
            f"--rows {' '.join(unknown)}: the {split} rows of {corpus_dir} are numbered "
            f"0 to {len(rows) - 1}; write numbers in that range"
        )
    tokenizer = open_directory(corpus_dir / TOKENIZER_NAME)
    print(f"{corpus_dir}: rows of {manifest.sequence_length}, documents numbered within their block of rows")
    for number in numbers:
        _print_row(rows, split, number, tokenizer)


def length_edges(sequence_length: int) -> list[int]:
    """Borders of the classes in which piece lengths are counted: powers of two."""
    edges = [3]
    while edges[-1] <= sequence_length:
        edges.append(1 << edges[-1].bit_length())
    edges[-1] = sequence_length + 1
    return edges


def _print_counts(corpus_dir: Path, manifest: Manifest) -> None:
    ids = f"{manifest.vocab_size:,} token ids ({manifest.token_dtype})"
    packing = manifest.settings["packing"]
    print(f"{corpus_dir}: rows of {manifest.sequence_length}, packing '{packing}', {ids}")
    print(f"  made by  {manifest.command}")
    columns = f"{'documents':>12}{'cut':>10}{'rows':>13}{'tokens':>17}{'padding':>9}{'shards':>8}{'MB':>10}"
    print(f"\n  {'split':8}{columns}")
    for split, info in manifest.splits.items():
        shards = manifest.shards_of(split)
        padding = info.padding / max(1, info.padding + info.tokens)
        megabytes = sum(shard.bytes for shard in shards) / 1e6
        print(
            f"  {split:8}{info.documents:12,}{info.cut_documents:10,}{info.rows:13,}{info.tokens:17,}"
            f"{padding:9.2%}{len(shards):8,}{megabytes:10,.1f}"
        )
    if len(manifest.sources) > 1:
        total = max(1, sum(source.tokens for source in manifest.sources))
        print(f"\n  {'source':20}{'documents':>14}{'kept':>14}{'repeat':>8}{'of all tokens':>15}")
        for source in manifest.sources:
            print(
                f"  {source.name:20}{source.read:14,}{source.kept:14,}{source.repeat:8g}"
                f"{source.tokens / total:15.1%}"
            )
    files = "1 file" if len(manifest.inputs) == 1 else f"{len(manifest.inputs):,} files"
    print(f"\n  from {files}: {manifest.documents.told()}")


def _print_lengths(sample: Sample, sequence_length: int) -> None:
    edges = length_edges(sequence_length)
    counts, _ = np.histogram(sample.piece_lengths, bins=edges)
    median = np.median(sample.piece_lengths)
    print(f"\n  tokens per document piece (median {median:.0f}, {sample.num_rows:,} rows looked at)")
    for low, high, count in zip(edges, edges[1:], counts.tolist()):
        bar = "#" * round(_BAR_WIDTH * count / counts.max())
        print(f"  {low:6,} to {high - 1:6,} {count / len(sample.piece_lengths):7.1%}  {bar}")


def _print_fit(sample: Sample, manifest: Manifest) -> None:
    used = int((sample.counts > 0).sum())
    share = manifest.dropped_characters / max(1, manifest.characters)
    dropped = f", {share:.3%} of the characters dropped" if manifest.dropped_characters else ""
    print(
        f"\n  tokenizer: {sample.word_tokens / max(1, sample.words):.2f} tokens per word, "
        f"{sample.word_bytes / max(1, sample.word_tokens):.2f} bytes per token, "
        f"{sample.unknown / sample.counts.sum():.3%} unknown{dropped}, "
        f"{used / manifest.vocab_size:.1%} of the vocabulary in these rows"
    )


def _print_frequent_tokens(sample: Sample, tokenizer: TokenizerDirectory) -> None:
    frequent = np.argsort(-sample.counts, kind="stable")[:_FREQUENT_TOKENS].tolist()
    told = ", ".join(
        f"{tokenizer.tokenizer.decode([token], False)!r} {sample.counts[token] / sample.counts.sum():.1%}"
        for token in frequent
    )
    print("\n  most frequent tokens")
    print(_wrapped(told, "    "))


def _print_row(rows: SplitRows, split: Split, row: int, tokenizer: TokenizerDirectory) -> None:
    place, pieces = rows.place(row), rows.pieces(row)
    tokens = sum(len(piece.ids) for piece in pieces)
    count = "1 document piece" if len(pieces) == 1 else f"{len(pieces)} document pieces"
    print(f"\n  {split} row {row}: row {place.row} of {place.shard}, in block {place.block}")
    print(f"  {count}, {tokens:,} tokens")
    for piece in pieces:
        begins = f", from its token {piece.offset:,} on" if piece.offset else ""
        print(f"    document {piece.document}: {len(piece.ids):,} tokens{begins}")
        text = tokenizer.tokenizer.decode(piece.ids.tolist(), skip_special_tokens=False)
        print(_wrapped(text.replace("\n", "\\n"), _INDENT))


def _wrapped(text: str, indent: str) -> str:
    width = min(get_terminal_size().columns, 110)
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)
