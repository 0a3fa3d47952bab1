"""What `shard` and `merge` tell people at the end."""

import sys
from pathlib import Path

from data_prep.format import SPLITS, DocumentCounts, Manifest
from data_prep.stages.merge import Found

_SHOWN_DAMAGE = 3


def print_warnings(found: Found, counts: DocumentCounts, valid_fraction: float) -> None:
    """What a user should know of a corpus before training on it, on standard error."""
    if valid_fraction > 0 and counts.valid == 0:
        _warn(
            f"--valid-fraction {valid_fraction:g} held out none of {counts.train:,} documents; for an "
            "evaluation, prepare the corpus with a larger one"
        )
    if found.damaged:
        _warn(f"some of the input is damaged and left out{describe_damage(found)}")
    if found.dropped_characters:
        share = found.dropped_characters / max(1, found.characters)
        _warn(
            f"the tokenizer has dropped {found.dropped_characters:,} characters ({share:.2%}): it has no "
            "token for them and no unknown token; train one that covers the text, for example with "
            "'python -m data_prep tokenizer', whose byte-level BPE covers every text"
        )
    if found.removed_tokens:
        _warn(
            f"the tokenizer has found {found.removed_tokens:,} of its cls, sep, pad or mask tokens in the "
            "texts; they have been taken out, because in a row they mean something else"
        )


def describe_damage(found: Found) -> str:
    """What to add to a message: the first few damaged records, or nothing."""
    damaged = [sample for sample in found.samples if sample.is_damage]
    told = [f"{sample.where}: {sample.reason}: {sample.text}" for sample in damaged[:_SHOWN_DAMAGE]]
    more = sum(found.damaged.values()) - len(told)
    return "".join(f"\n  {line}" for line in [*told, *([f"and {more:,} more"] if more > 0 else [])])


def print_summary(out: Path, manifest: Manifest, seconds: float) -> None:
    """Counts of documents, rows, tokens and sources, on standard output."""
    print(f"{out}: done, packed in {seconds:.1f} s")
    print(f"  documents  {manifest.documents.told()}")
    T = manifest.sequence_length
    for split in SPLITS:
        info, shards = manifest.splits[split], manifest.shards_of(split)
        if not shards:
            continue
        files = "1 shard" if len(shards) == 1 else f"{len(shards):,} shards"
        padding = info.padding / max(1, info.rows * T)
        print(
            f"  {split}      {info.rows:,} rows of {T}, {info.tokens:,} tokens, {files}; "
            f"{padding:.2%} padding, {info.cut_documents:,} of {info.documents:,} documents cut"
        )
    if len(manifest.sources) > 1:
        total = max(1, sum(source.tokens for source in manifest.sources))
        for source in manifest.sources:
            told = f"{source.kept:,} of {source.read:,} documents, x {source.repeat:g}"
            print(f"  source     {source.name}: {told}, {source.tokens / total:.1%} of the tokens")


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
