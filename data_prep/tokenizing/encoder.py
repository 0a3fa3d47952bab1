"""Texts -> token ids. Two backends with one interface; the second only where it does the same.

`huggingface` is the tokenizer itself. `gigatoken` is a byte-level BPE of the same vocabulary that is many
times faster; it is optional (`pip install 'lodestar[fast]'`) and never trusted: see `choose_backend`.
"""

import json
import os
from array import array
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from data_prep.errors import UsageError
from data_prep.tokenizing.coverage import Coverage
from data_prep.tokenizing.directory import open_directory
from data_prep.tokenizing.stretches import Stretches

Backend = Literal["huggingface", "gigatoken"]
BackendChoice = Literal["auto", "huggingface", "gigatoken"]

_CACHED_WORDS = 100_000


class Encoded(NamedTuple):
    """The tokens of n texts.

    Attributes:
        ids: Token ids, end to end, (sum of lengths,).
        lengths: How many of them each text has, (n,).
        num_dropped: Characters of all texts that the tokenizer has dropped, see coverage.py.
        num_removed: Tokens that were found in the texts and have been taken out, see without_ids.
    """

    ids: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.int64]
    num_dropped: int = 0
    num_removed: int = 0


class Encoder(Protocol):
    """What turns texts into ids: no special tokens added, and none recognized in a text."""

    def encode(self, texts: list[str]) -> Encoded:
        """The ids of every text."""
        ...


class HuggingFaceEncoder:
    """The `tokenizers` library, in this thread alone: processes are as many as the cores."""

    def __init__(self, tokenizer_dir: Path) -> None:
        """Open the tokenizer of a Hugging Face directory."""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._tokenizer = open_directory(tokenizer_dir).tokenizer
        self._tokenizer.post_processor = None  # a template may do more than frame a text
        self._stretches = Stretches(self._tokenizer)
        self.coverage = Coverage(self._tokenizer)
        # A word that was met before is not merged again: a seventh faster than with the usual 10,000.
        if hasattr(self._tokenizer.model, "_resize_cache"):
            self._tokenizer.model._resize_cache(_CACHED_WORDS)

    def encode(self, texts: list[str]) -> Encoded:
        """See Encoder; a very long text is encoded stretch by stretch."""
        stretches = [self._stretches.of(text) for text in texts]
        flat = [stretch for parts in stretches for stretch in parts]
        ids = [
            # The library hands out lists only; by way of an array they are a third faster.
            np.frombuffer(array("I", encoding.ids), dtype=np.uint32)
            for encoding in self._tokenizer.encode_batch_fast(flat, add_special_tokens=False)
        ]
        counts = np.array(list(map(len, ids)), dtype=np.int64)
        dropped = 0 if self.coverage.is_complete else self.coverage.num_dropped(texts)
        return Encoded(_joined(ids), _sums(counts, [len(parts) for parts in stretches]), dropped)


class GigatokenEncoder:
    """The gigatoken library, in this thread alone."""

    def __init__(self, tokenizer_dir: Path) -> None:
        """Open the tokenizer of a Hugging Face directory; raises whatever the library does."""
        import gigatoken

        description = json.loads((tokenizer_dir / "tokenizer.json").read_text(encoding="utf-8"))
        # Without them it cannot recognize a special token in a text.
        description["added_tokens"] = [
            token for token in description.get("added_tokens", []) if not token["special"]
        ]
        description["post_processor"] = None
        self._tokenizer = gigatoken.Tokenizer.from_json(json.dumps(description))
        self._stretches = Stretches(open_directory(tokenizer_dir).tokenizer)

    def encode(self, texts: list[str]) -> Encoded:
        """See Encoder."""
        stretches = [self._stretches.of(text) for text in texts]
        flat = [stretch for parts in stretches for stretch in parts]
        layout = self._tokenizer.encode_batch(flat, parallel=False).layout
        ends = np.asarray(layout.offsets.data).astype(np.int64)
        ids = np.asarray(layout.content.data, dtype=np.uint32)[ends[0] : ends[-1]]
        return Encoded(ids, _sums(np.diff(ends), [len(parts) for parts in stretches]))


def open_encoder(backend: Backend, tokenizer_dir: Path) -> Encoder:
    """The encoder of a backend that `choose_backend` named."""
    return GigatokenEncoder(tokenizer_dir) if backend == "gigatoken" else HuggingFaceEncoder(tokenizer_dir)


def without_ids(encoded: Encoded, special_ids: tuple[int, ...]) -> Encoded:
    """The same without cls, sep, pad and mask, which some tokenizers find in a text even when told not to.

    Unigram models have them as ordinary pieces. In a row they mean where documents begin and end, or what is
    to be predicted.
    """
    is_special = np.zeros(len(encoded.ids), dtype=bool)
    for special in special_ids:
        is_special |= encoded.ids == special
    if not is_special.any():
        return encoded
    ends = np.concatenate([[0], np.cumsum(~is_special)])[np.cumsum(encoded.lengths)]
    lengths = np.diff(ends, prepend=0).astype(np.int64)
    return Encoded(encoded.ids[~is_special], lengths, encoded.num_dropped, int(is_special.sum()))


def choose_backend(
    choice: BackendChoice, tokenizer_dir: Path, sample: list[str]
) -> tuple[Backend, str | None]:
    """The backend to use, and a warning if it is not the one wished for.

    Args:
        choice: "auto" takes gigatoken where it is installed and proves itself.
        tokenizer_dir: A Hugging Face tokenizer directory.
        sample: Texts of this corpus; gigatoken must give the very ids of the tokenizer for all of them.

    Raises:
        UsageError: gigatoken is asked for and not installed.
    """
    if choice == "huggingface":
        return "huggingface", None
    exact = HuggingFaceEncoder(tokenizer_dir)
    if not exact.coverage.is_complete:  # only this one counts them
        told = "gigatoken does not count the characters that this tokenizer drops; the ordinary one is used"
        return "huggingface", told if choice == "gigatoken" else None
    try:
        fast = GigatokenEncoder(tokenizer_dir)
    except ImportError as error:
        if choice == "gigatoken":
            raise UsageError(
                f"--backend gigatoken: {error}; install it with: pip install 'lodestar[fast]'"
            ) from error
        return "huggingface", None
    except Exception as error:  # it raises many kinds for tokenizers that it does not know
        told = f"gigatoken cannot open {tokenizer_dir} ({error}); the ordinary tokenizer is used"
        return "huggingface", told if choice == "gigatoken" else None
    different = first_difference(fast, exact, sample)
    if different is not None:
        told = f"gigatoken gives other tokens for {different[:60]!r}; the ordinary tokenizer is used"
        return "huggingface", told
    return "gigatoken", None


def first_difference(one: Encoder, other: Encoder, texts: list[str]) -> str | None:
    """The first of `texts` for which two encoders do not give the same ids, or None."""
    for text in texts:
        try:
            same = np.array_equal(one.encode([text]).ids, other.encode([text]).ids)
        except Exception:  # what a library may raise on a text the other one takes
            same = False
        if not same:
            return text
    return None


def _joined(arrays: list[npt.NDArray[np.uint32]]) -> npt.NDArray[np.uint32]:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.uint32)


def _sums(counts: npt.NDArray[np.int64], group_sizes: list[int]) -> npt.NDArray[np.int64]:
    """The sums of successive groups of `counts`."""
    ends = np.concatenate([[0], np.cumsum(counts)])
    borders = np.concatenate([[0], np.cumsum(group_sizes)]).astype(np.int64)
    return ends[borders[1:]] - ends[borders[:-1]]
