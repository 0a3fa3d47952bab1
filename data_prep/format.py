"""The corpus on disk: what data_prep writes and the pipeline reads.

    CORPUS/manifest.json               written last; a directory without it is not a corpus
    CORPUS/tokenizer/                  a Hugging Face tokenizer directory
    CORPUS/train-00000-of-00064.arrow  Arrow IPC stream, columns
        input_ids   fixed_size_list<uint16|uint32>[T]   special tokens included, padded at the end
        segments    list<uint16>                        token counts of the document pieces in the row;
                                                        they sum to the row's tokens, the rest is padding
    CORPUS/valid-00000-of-00001.arrow  the held-out documents, same columns

Every record batch but a file's last holds ROWS_PER_BATCH rows, so a row is found by one division. The
stream form (rather than the random-access "file" form) is the one `datasets.Dataset.from_file` opens;
memory-mapped, its buffers are used where they lie.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.errors import DataError
from data_prep.files import sha256_file, sync_file, write_atomically

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer"
ROWS_PER_BATCH = 1024

Split = Literal["train", "valid"]
TokenIds = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardInfo(_Strict):
    """One shard file as the manifest records it."""

    name: str
    split: Split
    rows: int
    bytes: int
    sha256: str


class DocumentCounts(_Strict):
    """Where every document went: `read` is the sum of the other document counts."""

    read: int
    train: int
    valid: int
    duplicates: int
    dropped: dict[str, int]


class InputInfo(_Strict):
    """One input file as it was when the corpus was made."""

    path: str
    bytes: int
    documents: int


class Manifest(_Strict):
    """The corpus in numbers; see the module docstring for the files it describes.

    `train_tokens` and `valid_tokens` count special tokens and leave padding out. `settings` are the
    options that determine the shards' bytes; `command` and `versions` say what made them.
    """

    format_version: int
    sequence_length: int
    token_dtype: Literal["uint16", "uint32"]
    vocab_size: int
    tokenizer_sha256: str
    train_tokens: int
    valid_tokens: int
    documents: DocumentCounts
    inputs: list[InputInfo]
    shards: list[ShardInfo]
    settings: dict[str, str | int | float | bool | None]
    command: str
    versions: dict[str, str]

    def shards_of(self, split: Split) -> list[ShardInfo]:
        """The split's shards in file order."""
        return [shard for shard in self.shards if shard.split == split]

    def content_sha256(self) -> str:
        """Identity of the rows: of the tokenizer and of every shard, wherever and whenever they were made."""
        parts = [self.tokenizer_sha256, *(shard.sha256 for shard in self.shards)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 while every id fits it: half the disk, page cache and read bandwidth of 32 bits."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def shard_name(split: Split, index: int, count: int) -> str:
    """File name of shard `index` of `count`."""
    return f"{split}-{index:05d}-of-{count:05d}.arrow"


def tokenizer_sha256(tokenizer_dir: Path) -> str:
    """Identity of a tokenizer: the hash of its tokenizer.json."""
    path = tokenizer_dir / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{tokenizer_dir}: no tokenizer.json; make one with 'python -m data_prep tokenizer'")
    return sha256_file(path)


def write_manifest(corpus_dir: Path, manifest: Manifest) -> None:
    """Publish a corpus: from here on the directory is one."""
    write_atomically(corpus_dir / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(corpus_dir: Path) -> Manifest:
    """Read and check a corpus's manifest; a DataError names what is missing or wrong."""
    path = corpus_dir / MANIFEST_NAME
    if not path.is_file():
        found = "has no manifest.json" if corpus_dir.is_dir() else "does not exist"
        raise DataError(f"corpus {corpus_dir} {found}; make it with 'python -m data_prep shard'")
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a corpus manifest: {error}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise DataError(
            f"{path}: format version {manifest.format_version}, this program reads {FORMAT_VERSION}; "
            "prepare the corpus again"
        )
    return manifest


class ShardWriter:
    """Writes rows to one shard file in batches of ROWS_PER_BATCH; `close` makes the file durable."""

    def __init__(self, path: Path, sequence_length: int, dtype: np.dtype) -> None:
        """Create `path`, to hold rows of `sequence_length` tokens of type `dtype`."""
        self.path = path
        self.rows = 0
        self._dtype = dtype
        self._row_type = pa.list_(pa.from_numpy_dtype(dtype), sequence_length)
        self._schema = pa.schema([("input_ids", self._row_type), ("segments", pa.list_(pa.uint16()))])
        self._stream = pa.ipc.new_stream(str(path), self._schema)
        self._pending_ids: list[npt.NDArray] = []
        self._pending_segments: list[Sequence[int]] = []

    def add(self, input_ids: npt.NDArray, segments: Sequence[int]) -> None:
        """Append one row: `input_ids` of shape (T,), already padded; `segments` as on disk."""
        self._pending_ids.append(input_ids)
        self._pending_segments.append(segments)
        self.rows += 1
        if len(self._pending_ids) == ROWS_PER_BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is pending and flush the file to disk."""
        self._flush()
        self._stream.close()
        sync_file(self.path)

    def _flush(self) -> None:
        if not self._pending_ids:
            return
        flat = pa.array(np.concatenate(self._pending_ids).astype(self._dtype, copy=False))
        ids = pa.FixedSizeListArray.from_arrays(flat, type=self._row_type)
        segments = pa.array(self._pending_segments, type=self._schema.field("segments").type)
        self._stream.write_batch(pa.record_batch([ids, segments], schema=self._schema))
        self._pending_ids, self._pending_segments = [], []


class Shard:
    """A memory-mapped shard: any row in O(1), no copy, no Python object per token."""

    def __init__(self, path: Path, sequence_length: int) -> None:
        """Map `path`; a DataError says what is wrong with the file."""
        self.path = path
        self._batches: list[TokenIds] = []
        self._segment_ends: list[npt.NDArray] = []
        self._segments: list[npt.NDArray] = []
        try:
            table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
            columns = zip(table["input_ids"].chunks, table["segments"].chunks)
            for ids, segments in columns:
                if ids.type.list_size != sequence_length:
                    raise DataError(
                        f"{path}: rows of {ids.type.list_size} tokens, expected {sequence_length}"
                    )
                self._batches.append(ids.flatten().to_numpy().reshape(-1, sequence_length))
                self._segment_ends.append(segments.offsets.to_numpy())
                self._segments.append(segments.values.to_numpy())
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: shard file is missing; check with 'python -m data_prep verify'"
            ) from error
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DataError(
                f"{path}: not a readable shard ({error}); check with 'python -m data_prep verify'"
            ) from error
        self.rows: int = table.num_rows

    def input_ids(self, row: int) -> TokenIds:
        """Token ids of one row, shape (T,): a view into the mapped file."""
        return self._batches[row // ROWS_PER_BATCH][row % ROWS_PER_BATCH]

    def batches(self) -> list[TokenIds]:
        """All token ids in file order, as arrays of shape (rows, T): views into the mapped file."""
        return self._batches

    def segments(self, row: int) -> npt.NDArray[np.uint16]:
        """Token counts of the row's document pieces: a view into the mapped file."""
        batch, index = divmod(row, ROWS_PER_BATCH)
        ends = self._segment_ends[batch]
        return self._segments[batch][ends[index] : ends[index + 1]]
