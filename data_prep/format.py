"""The corpus on disk: what data_prep writes and the pipeline reads.

    CORPUS/manifest.json               written last; a directory without it is not a corpus
    CORPUS/tokenizer/                  a Hugging Face tokenizer directory
    CORPUS/train-00000-of-00064.arrow  Arrow IPC stream, columns
        input_ids   fixed_size_list<uint16|uint32>[T]   special tokens included, padded at the end
        segments    list<uint16>                        token counts of the document pieces in the row;
                                                        they sum to the row's tokens, the rest is padding
        documents   list<uint32>                        number, within its block, of each piece's document
        offsets     list<uint32>                        how many of its tokens stand in earlier pieces
    CORPUS/valid-00000-of-00001.arrow  the held-out documents, same columns
    CORPUS/dropped.jsonl               some of the documents that were left out, each with its reason

A shard's rows come in blocks, whose row counts are in the manifest. A document lies within one block, so
the documents can be put together again, and packed anew, in bounded memory.

Every record batch but a file's last holds ROWS_PER_BATCH rows, so a row is found by one division. The
stream form (rather than the random-access "file" form) is the one `datasets.Dataset.from_file` opens;
memory-mapped, its buffers are used where they lie.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.errors import DataError
from data_prep.files import sync_file, write_atomically

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
DROPPED_NAME = "dropped.jsonl"
WORK_NAME = ".work"  # of a corpus that is not finished
TOKENIZER_NAME = "tokenizer"
ROWS_PER_BATCH = 1024

Split = Literal["train", "valid"]
SPLITS: tuple[Split, ...] = get_args(Split)
TokenIds = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardInfo(_Strict):
    """One shard file as the manifest records it; `blocks` are the row counts of its blocks."""

    name: str
    split: Split
    rows: int
    bytes: int
    sha256: str
    blocks: list[int]


class DocumentCounts(_Strict):
    """Where every document went: `read` is the sum of all the others.

    `damaged` counts what could not be read at all, by reason; `dropped` what was read and left out.
    """

    read: int
    train: int
    valid: int
    duplicates: int
    near_duplicates: int
    dropped: dict[str, int]
    damaged: dict[str, int]

    def told(self) -> str:
        """One line for people."""
        left_out = {
            "duplicates": self.duplicates,
            "near duplicates": self.near_duplicates,
            **self.dropped,
            **{f"damaged ({reason})": count for reason, count in self.damaged.items()},
        }
        parts = "".join(f", {count:,} {reason}" for reason, count in left_out.items() if count)
        return f"{self.read:,} documents read: {self.train:,} to train on, {self.valid:,} held out{parts}"


class SourceInfo(_Strict):
    """One of the corpora that were mixed: documents read and kept, and its tokens in the rows.

    `tokens` counts repeated documents as often as they stand there, and no special tokens.
    """

    name: str
    text_fields: list[str]
    text_documents: str
    quoting: str
    encoding: str = "utf-8"  # of all corpora made before it could be chosen
    repeat: float
    read: int
    kept: int
    tokens: int


class InputInfo(_Strict):
    """One input file as it was when the corpus was made."""

    path: str
    bytes: int
    documents: int


class PackedRows(NamedTuple):
    """R rows of T tokens and the P pieces in them.

    Attributes:
        input_ids: (R, T), padded at the end.
        num_pieces: pieces per row, (R,).
        segments: tokens of each piece, cls and sep included, (P,).
        documents: number of each piece's document within its block, (P,).
        offsets: how many of the document's tokens stand in earlier pieces, (P,).
    """

    input_ids: npt.NDArray
    num_pieces: Ints
    segments: Ints
    documents: Ints
    offsets: Ints


class SplitInfo(_Strict):
    """A split in numbers: `tokens` counts special tokens and leaves padding out.

    Attributes:
        rows: rows of all shards.
        tokens: tokens that are not padding.
        padding: places that hold no token.
        documents: documents in the rows, each as often as it stands there.
        cut_documents: those of them that were cut, so that no row holds them whole.
    """

    rows: int = 0
    tokens: int = 0
    padding: int = 0
    documents: int = 0
    cut_documents: int = 0

    def __add__(self, other: "SplitInfo") -> "SplitInfo":
        return SplitInfo(**{name: value + getattr(other, name) for name, value in self})

    @classmethod
    def of(cls, rows: PackedRows) -> "SplitInfo":
        """The numbers of some rows that hold whole documents."""
        tokens = int(rows.segments.sum())
        pieces_of = np.bincount(rows.documents)
        return cls(
            rows=len(rows.input_ids),
            tokens=tokens,
            padding=rows.input_ids.size - tokens,
            documents=len(pieces_of),
            cut_documents=int((pieces_of > 1).sum()),
        )


class Manifest(_Strict):
    """The corpus in numbers; see the module docstring for the files it describes.

    `settings` are the options that determine the shards' bytes; `command` and `versions` say what made them.
    Of the `characters` of all tokenized documents the tokenizer has dropped `dropped_characters`, with not
    even an unknown token in their place. `removed_tokens` are special tokens that it found in texts and that
    were taken out. Manifests of earlier versions do not say.
    """

    format_version: int
    sequence_length: int
    token_dtype: Literal["uint16", "uint32"]
    vocab_size: int
    tokenizer_sha256: str
    splits: dict[Split, SplitInfo]
    documents: DocumentCounts
    characters: int = 0
    dropped_characters: int = 0
    removed_tokens: int = 0
    sources: list[SourceInfo]
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


def write_manifest(corpus_dir: Path, manifest: Manifest) -> None:
    """Publish a corpus: from here on the directory is one."""
    write_atomically(corpus_dir / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(corpus_dir: Path) -> Manifest:
    """Read and check a corpus's manifest; a DataError names what is missing or wrong."""
    path = corpus_dir / MANIFEST_NAME
    if not path.is_file():
        found = "has no manifest.json" if corpus_dir.is_dir() else "does not exist"
        if (corpus_dir / WORK_NAME).is_dir():
            raise DataError(
                f"corpus {corpus_dir} is not finished; start the command that makes it once more, or, if it "
                f"was made in tasks, 'python -m data_prep merge {corpus_dir}'"
            )
        raise DataError(f"corpus {corpus_dir} {found}; make it with 'python -m data_prep shard'")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version != FORMAT_VERSION:
            raise DataError(
                f"{path}: format version {version}, this program reads {FORMAT_VERSION}; "
                "prepare the corpus again"
            )
        manifest = Manifest.model_validate(content)
    except (ValidationError, ValueError) as error:
        raise DataError(f"{path} is not a corpus manifest: {error}") from error
    return manifest


class ShardWriter:
    """Writes rows to one shard file in batches of ROWS_PER_BATCH; `close` makes the file durable."""

    def __init__(self, path: Path, sequence_length: int, dtype: np.dtype) -> None:
        """Create `path`, to hold rows of `sequence_length` tokens of type `dtype`."""
        self.path = path
        self.blocks: list[int] = []
        self._row_type = pa.list_(pa.from_numpy_dtype(dtype), sequence_length)
        self._schema = pa.schema(
            [
                ("input_ids", self._row_type),
                ("segments", pa.list_(pa.uint16())),
                ("documents", pa.list_(pa.uint32())),
                ("offsets", pa.list_(pa.uint32())),
            ]
        )
        self._stream = pa.ipc.new_stream(str(path), self._schema)
        self._pending: list[pa.RecordBatch] = []
        self._num_pending = 0

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return sum(self.blocks)

    def write(self, rows: PackedRows) -> None:
        """Append a block: `input_ids` of type `dtype` and shape (R, sequence_length), and their pieces."""
        ids = pa.FixedSizeListArray.from_arrays(pa.array(rows.input_ids.reshape(-1)), type=self._row_type)
        ends = np.concatenate([[0], np.cumsum(rows.num_pieces)]).astype(np.int32)
        columns = [ids]
        for values, narrow in ((rows.segments, "u2"), (rows.documents, "u4"), (rows.offsets, "u4")):
            columns.append(pa.ListArray.from_arrays(pa.array(ends), pa.array(values.astype(narrow))))
        block = pa.record_batch(columns, schema=self._schema)
        self.blocks.append(block.num_rows)
        start = 0
        while self._num_pending + block.num_rows - start >= ROWS_PER_BATCH:
            count = ROWS_PER_BATCH - self._num_pending
            self._write_batch(block.slice(start, count))
            start += count
        if start < block.num_rows:
            self._pending.append(block.slice(start))
            self._num_pending += block.num_rows - start

    def close(self) -> None:
        """Write what is pending and flush the file to disk."""
        if self._pending:
            self._write_batch()
        self._stream.close()
        sync_file(self.path)

    def _write_batch(self, *more: pa.RecordBatch) -> None:
        table = pa.Table.from_batches([*self._pending, *more]).combine_chunks()
        self._stream.write_table(table)
        self._pending, self._num_pending = [], 0


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
