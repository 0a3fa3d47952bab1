"""Whether the tokenizer that lies in a corpus is the one its rows were made with, however it is read."""

from pathlib import Path

import numpy as np

from data_prep.format import Manifest
from data_prep.tokenizing.directory import TokenizerDirectory
from data_prep.tokenizing.probe_texts import PROBE_TEXTS
from pipeline.data.corpus import CorpusRows, CorpusSplit

_NUM_ROWS, _NUM_TEXTS = 256, 8  # rows whose special tokens are compared, and those that are tokenized again


def tokenizer_problem(corpus: Path, manifest: Manifest, tokenizer: TokenizerDirectory) -> str | None:
    """What is wrong with a corpus's tokenizer, and what to do; None if nothing is.

    Compared are its content and size with the manifest, its special tokens with rows, and its ids and offsets
    with those that transformers' object gives, which evaluation and export use.

    Raises:
        DataError: A shard cannot be read.
    """
    advice = "put the original back or prepare the corpus again"
    if not tokenizer.is_recorded(manifest.tokenizer_sha256):
        found, recorded = tokenizer.content_sha256()[:12], manifest.tokenizer_sha256[:12]
        hashes = f"content {found}, the manifest says {recorded}"
        return f"{tokenizer.path} is not the tokenizer of the shards ({hashes}); {advice}"
    if tokenizer.vocab_size != manifest.vocab_size:
        sizes = f"{tokenizer.vocab_size:,} ids, the manifest says {manifest.vocab_size:,}"
        return f"{tokenizer.path} has {sizes}; {advice}"
    split = CorpusSplit(corpus, "train", manifest)
    rows = split.read(np.arange(min(_NUM_ROWS, split.num_rows))) if split.num_rows else None
    if rows is not None and (wrong := _wrong_special_token(rows, tokenizer)) is not None:
        return f"{tokenizer.path}: {wrong}; {advice}"
    return _other_reading(tokenizer, rows)


def _wrong_special_token(rows: CorpusRows, tokenizer: TokenizerDirectory) -> str | None:
    """A special token that stands elsewhere in the rows than its role says."""
    ids = tokenizer.row_ids()
    last = rows.lengths - 1
    behind = np.arange(rows.input_ids.shape[1]) > last[:, None]
    found = {
        "cls": rows.input_ids[:, 0],
        "sep": rows.input_ids[np.arange(len(last)), last],
        "pad": rows.input_ids[behind],
    }
    for role, tokens in found.items():
        expected = getattr(ids, role)
        if wrong := set(tokens.tolist()) - {expected}:
            return f"its {role}_token has the id {expected}, but in the rows it is {min(wrong)}"
    return None


def _other_reading(tokenizer: TokenizerDirectory, rows: CorpusRows | None) -> str | None:
    from pipeline.tokenizer import first_difference, row_texts, transformers_tokenizer

    texts = [*PROBE_TEXTS, *([] if rows is None else row_texts(tokenizer, rows.input_ids[:_NUM_TEXTS]))]
    difference = first_difference(tokenizer, transformers_tokenizer(tokenizer), texts)
    if difference is None:
        return None
    return (
        f"{tokenizer.path}: the installed transformers does not read its tokenizer.json like the library "
        f"tokenizers: {difference}; install another version of transformers"
    )
