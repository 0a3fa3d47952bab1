"""A corpus that is yet to be prepared, as far as a plan needs it: the length of its rows and its vocabulary.

Its rows are taken to be full. What only the corpus itself can tell is left open: how many rows there are, how
many of their places are padding, and what tokens there are.
"""

from dataclasses import dataclass
from pathlib import Path

from data_prep.format import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    DocumentCounts,
    Manifest,
    ShardInfo,
    Split,
    SplitInfo,
    token_dtype,
)
from pipeline.config.schema import Recipe
from pipeline.data.corpus import Vocabulary
from pipeline.errors import UsageError

_NO_DOCUMENTS = DocumentCounts(
    read=0, train=0, valid=0, duplicates=0, near_duplicates=0, dropped={}, damaged={}
)
UNKNOWN = (
    "passes over the corpus",
    "padding and the attention masks of padded rows",
    "pages of the shards in a process's memory",
    "whether the tokenizer has the tokens of guided patterns",
)


@dataclass(frozen=True)
class AssumedCorpus:
    """What is assumed of each corpus of a recipe: tokens per row, entries of the tokenizer."""

    length: int
    vocabulary_size: int

    def manifest_of(self, corpus: Path) -> Manifest:
        """A manifest without a tokenizer's hash; of one full row per split, since the number is not known."""
        row = SplitInfo(rows=1, tokens=self.length, documents=1)
        return Manifest(
            format_version=FORMAT_VERSION,
            sequence_length=self.length,
            token_dtype=token_dtype(self.vocabulary_size).name,
            vocab_size=self.vocabulary_size,
            tokenizer_sha256="",
            splits={"train": row, "valid": row},
            documents=_NO_DOCUMENTS,
            sources=[],
            inputs=[],
            shards=[_shard_of(corpus, "train"), _shard_of(corpus, "valid")],
            settings={},
            command="",
            versions={},
        )

    def vocabulary(self) -> Vocabulary:
        """Special tokens stand where data_prep's byte-level BPE has them."""
        return stand_in_vocabulary(self.vocabulary_size)

    def stand_for(self, recipe: Recipe) -> tuple[Manifest, Vocabulary]:
        """In the place of the recipe's own corpus; a UsageError if one of its corpora exists."""
        self._require_absent(recipe)
        return self.manifest_of(Path(recipe.corpus)), self.vocabulary()

    def _require_absent(self, recipe: Recipe) -> None:
        for corpus in corpora_of(recipe):
            if (Path(corpus) / MANIFEST_NAME).is_file():
                raise UsageError(
                    f"--assume-length and --assume-vocabulary: the recipe's corpus {corpus} exists, and they "
                    "stand for all its corpora; leave them out, or name directories that do not exist yet "
                    "(--set corpus=DIRECTORY)"
                )


def stand_in_vocabulary(size: int) -> Vocabulary:
    """The vocabulary of a tokenizer that is not there."""
    return Vocabulary(size=size, pad_id=1, cls_id=0, sep_id=2, mask_id=4, special_ids=())


def assume(length: int | None, vocabulary_size: int | None) -> AssumedCorpus | None:
    """From the command's options; None without them, a UsageError for one without the other."""
    if length is None and vocabulary_size is None:
        return None
    if length is None or vocabulary_size is None:
        given, missing = ("vocabulary", "length") if length is None else ("length", "vocabulary")
        raise UsageError(
            f"--assume-{given} without --assume-{missing}: a plan without a corpus needs both, for example "
            "--assume-length 512 --assume-vocabulary 32000"
        )
    return AssumedCorpus(length, vocabulary_size)


def corpora_of(recipe: Recipe) -> list[str]:
    """The directories of a recipe's corpora, each once, its own first."""
    return list(dict.fromkeys([recipe.corpus, *(phase.corpus for phase in recipe.phases)]))


def _shard_of(corpus: Path, split: Split) -> ShardInfo:
    """Named for its directory, so that phases of several corpora are told apart."""
    return ShardInfo(name=split, split=split, rows=1, bytes=0, sha256=f"{corpus} {split}", blocks=[1])
