"""Checks a corpus against its manifest, byte by byte and row by row; tells everything that is wrong."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.blocks import read_blocks
from data_prep.errors import DataError
from data_prep.files import sha256_file
from data_prep.format import (
    ROWS_PER_BATCH,
    TOKENIZER_NAME,
    Manifest,
    ShardInfo,
    Split,
    read_manifest,
)
from data_prep.packing import Packing, PieceIds, pack_block, unpack
from data_prep.progress import progress_bar
from data_prep.tokenizing.directory import SpecialIds, open_directory


def verify_corpus(corpus_dir: Path) -> None:
    """Check the corpus and print a line if all is well.

    Raises:
        DataError: Something is wrong; the message lists all of it.
    """
    manifest = read_manifest(corpus_dir)
    problems = list(_manifest_problems(manifest))
    problems += _unknown_files(corpus_dir, manifest)
    ids: SpecialIds | None = None
    try:
        ids = _checked_special_ids(corpus_dir / TOKENIZER_NAME, manifest)
    except DataError as error:
        problems.append(str(error))
    tokens: dict[Split, int] = {"train": 0, "valid": 0}
    total_bytes = sum(shard.bytes for shard in manifest.shards)
    with progress_bar("verify", total_bytes, "B") as bar:
        for shard in manifest.shards:
            check = _ShardCheck(corpus_dir / shard.name, shard, manifest, ids)
            problems += check.problems()
            tokens[shard.split] += check.num_tokens
            bar.update(shard.bytes)
    if not problems:
        problems += _token_count_problems(manifest, tokens)
    if problems:
        told = "\n  ".join(problems)
        raise DataError(f"{corpus_dir} is damaged:\n  {told}\nprepare the corpus again, or copy it again")
    rows = sum(shard.rows for shard in manifest.shards)
    print(
        f"{corpus_dir}: ok, {len(manifest.shards):,} shards, {rows:,} rows, {sum(tokens.values()):,} tokens"
    )


def _manifest_problems(manifest: Manifest) -> Iterator[str]:
    counts = manifest.documents
    accounted = counts.train + counts.valid + counts.duplicates + counts.near_duplicates
    accounted += sum(counts.dropped.values()) + sum(counts.damaged.values())
    if counts.read != accounted:
        yield f"manifest: {counts.read:,} documents read, but {accounted:,} accounted for"
    from_inputs = sum(entry.documents for entry in manifest.inputs)
    if counts.read != from_inputs:
        yield f"manifest: {counts.read:,} documents read, but its inputs hold {from_inputs:,}"
    if not manifest.shards_of("train"):
        yield "manifest: no training shard"


def _unknown_files(corpus_dir: Path, manifest: Manifest) -> list[str]:
    known = {shard.name for shard in manifest.shards}
    present = sorted(path.name for path in corpus_dir.glob("*.arrow"))
    return [
        f"{name}: not in the manifest; left from another corpus?" for name in present if name not in known
    ]


def _checked_special_ids(tokenizer_dir: Path, manifest: Manifest) -> SpecialIds:
    directory = open_directory(tokenizer_dir)
    if not directory.is_recorded(manifest.tokenizer_sha256):
        raise DataError(
            f"{tokenizer_dir}/tokenizer.json: not the tokenizer of this corpus (its content has the hash "
            f"{directory.content_sha256()[:12]}, the manifest says {manifest.tokenizer_sha256[:12]})"
        )
    ids = directory.row_ids()
    if ids.vocab_size != manifest.vocab_size:
        raise DataError(f"{tokenizer_dir}: {ids.vocab_size:,} ids, the manifest says {manifest.vocab_size:,}")
    return ids


def _token_count_problems(manifest: Manifest, tokens: dict[Split, int]) -> Iterator[str]:
    for split, info in manifest.splits.items():
        if tokens[split] != info.tokens:
            yield f"manifest: {info.tokens:,} {split} tokens, but the shards hold {tokens[split]:,}"


class _ShardCheck:
    """The checks of one shard file; `num_tokens` counts its tokens on the way."""

    def __init__(self, path: Path, info: ShardInfo, manifest: Manifest, ids: SpecialIds | None) -> None:
        self.num_tokens = 0
        self._path = path
        self._info = info
        self._manifest = manifest
        self._ids = ids

    def problems(self) -> list[str]:
        """All that is wrong with the file; once its bytes are wrong, its rows are not looked at."""
        try:
            found = self._byte_problems() or list(self._row_problems()) or list(self._block_problems())
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            found = [f"not a readable shard: {error}"]
        except DataError as error:
            found = [str(error)]
        return [f"{self._info.name}: {problem}" for problem in found]

    def _byte_problems(self) -> list[str]:
        if not self._path.is_file():
            return ["missing"]
        size = self._path.stat().st_size
        if size != self._info.bytes:
            return [f"{size:,} bytes, the manifest says {self._info.bytes:,}; cut short?"]
        if sha256_file(self._path) != self._info.sha256:
            return ["its bytes have changed since it was written (sha256 differs)"]
        return []

    def _row_problems(self) -> Iterator[str]:
        length = self._manifest.sequence_length
        num_rows = 0
        with pa.memory_map(str(self._path)) as file, pa.ipc.open_stream(file) as stream:
            expected = pa.list_(pa.from_numpy_dtype(np.dtype(self._manifest.token_dtype)), length)
            if stream.schema.field("input_ids").type != expected:
                yield f"input_ids are {stream.schema.field('input_ids').type}, expected {expected}"
                return
            for batch in stream:
                if num_rows % ROWS_PER_BATCH:
                    yield f"the batch before row {num_rows:,} is not of {ROWS_PER_BATCH} rows"
                ids = batch.column("input_ids").flatten().to_numpy().reshape(-1, length)
                segments = batch.column("segments")
                for row, problem in self._batch_problems(
                    ids, segments.flatten().to_numpy(), np.diff(segments.offsets.to_numpy())
                ):
                    yield f"row {num_rows + row:,}: {problem}"
                num_rows += batch.num_rows
        if num_rows != self._info.rows:
            yield f"{num_rows:,} rows, the manifest says {self._info.rows:,}"

    def _block_problems(self) -> Iterator[str]:
        """Packing a block's documents once more must give the very rows that are there."""
        if self._ids is None:
            return
        settings = self._manifest.settings
        packing: Packing = settings["packing"]  # type: ignore[assignment]
        ids = PieceIds(self._ids.cls, self._ids.sep, self._ids.pad)
        for number, block in enumerate(read_blocks(self._path, self._info)):
            tokens, lengths = unpack(block, ids.sep)
            if not lengths.all():
                yield f"block {number}: its documents are not numbered from 0 on without gaps"
                continue
            seed = int(settings["seed"] or 0)
            again = pack_block(tokens, lengths, self._manifest.sequence_length, packing, seed, ids)
            if not all(np.array_equal(there, made) for there, made in zip(block, again)):
                yield f"block {number}: its documents, packed again, give other rows or another order"

    def _batch_problems(
        self, ids: npt.NDArray, lengths: npt.NDArray, pieces_per_row: npt.NDArray
    ) -> Iterator[tuple[int, str]]:
        """The first row with each kind of problem.

        Args:
            ids: Token ids, shape (rows, T).
            lengths: Token counts of all pieces, row after row.
            pieces_per_row: How many of `lengths` belong to each row, shape (rows,).
        """
        T = ids.shape[1]
        row_of_piece = np.repeat(np.arange(len(ids)), pieces_per_row)
        row_tokens = np.bincount(row_of_piece, weights=lengths, minlength=len(ids)).astype(np.int64)
        self.num_tokens += int(row_tokens.sum())
        yield from _first(ids.max(axis=1) >= self._manifest.vocab_size, "an id beyond the vocabulary")
        bad_lengths = (row_tokens == 0) | (row_tokens > T)
        bad_lengths[row_of_piece[lengths < 1]] = True
        yield from _first(bad_lengths, f"its segments must be positive and sum to at most {T}")
        if self._ids is None or bad_lengths.any():
            return
        behind = np.arange(T) >= row_tokens[:, None]
        yield from _first(((ids != self._ids.pad) & behind).any(axis=1), "a token behind the last segment")
        row_starts = np.concatenate([[0], np.cumsum(row_tokens)[:-1]])
        begins = np.cumsum(lengths, dtype=np.int64) - lengths - row_starts[row_of_piece]
        ends = begins + lengths - 1
        wrong = (ids[row_of_piece, begins] != self._ids.cls) | (ids[row_of_piece, ends] != self._ids.sep)
        wrong_rows = np.bincount(row_of_piece, weights=wrong, minlength=len(ids)) > 0
        yield from _first(wrong_rows, "a piece that does not begin with cls and end with sep")


def _first(wrong: npt.NDArray[np.bool_], problem: str) -> Iterator[tuple[int, str]]:
    if wrong.any():
        yield int(wrong.argmax()), problem
