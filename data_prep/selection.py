"""Which documents are kept, and which split each belongs to: a function of the text alone."""

import hashlib
from collections import Counter

from data_prep.format import DocumentCounts, Split

_DIGEST_BYTES = 16
_HASH_RANGE = 1 << 64


class Selection:
    """Drops empty, short and repeated documents and holds out a share of the rest by hash.

    Two documents with the same text always land in the same split, in every corpus. Exact duplicates
    are found by a 16-byte digest per distinct document, about 100 bytes of memory each: the one thing
    in corpus preparation that grows with the corpus.
    """

    def __init__(self, valid_fraction: float, min_chars: int, keep_duplicates: bool) -> None:
        """Hold out `valid_fraction` of the documents; drop those under `min_chars` characters."""
        self._valid_below = int(valid_fraction * _HASH_RANGE)
        self._min_chars = min_chars
        self._seen: set[bytes] | None = None if keep_duplicates else set()
        self._num_read = 0
        self._num_duplicates = 0
        self._dropped: Counter[str] = Counter()
        self._kept: Counter[Split] = Counter()

    def choose(self, text: str) -> Split | None:
        """The split of a document, or None if it is left out; counts it either way."""
        self._num_read += 1
        if not text or text.isspace():
            self._dropped["empty"] += 1
            return None
        if len(text) < self._min_chars:
            self._dropped["too short"] += 1
            return None
        digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()
        if self._seen is not None:
            if digest in self._seen:
                self._num_duplicates += 1
                return None
            self._seen.add(digest)
        split: Split = "valid" if int.from_bytes(digest[:8], "big") < self._valid_below else "train"
        self._kept[split] += 1
        return split

    def drop_untokenizable(self, split: Split) -> None:
        """Take back a chosen document of which the tokenizer left nothing (control characters, say)."""
        self._kept[split] -= 1
        self._dropped["no tokens"] += 1

    def counts(self) -> DocumentCounts:
        """Where every document so far went."""
        return DocumentCounts(
            read=self._num_read,
            train=self._kept["train"],
            valid=self._kept["valid"],
            duplicates=self._num_duplicates,
            dropped=dict(sorted(self._dropped.items())),
        )
