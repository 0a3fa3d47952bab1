"""Documents -> a corpus directory of packed shards (see data_prep.format for what is written).

The parent reads, selects, packs and writes in input order; worker processes tokenize. The shards' bytes
depend on the inputs, the tokenizer and the options, never on the number of workers. Everything is written
in OUT/.partial first; the manifest, written last, makes OUT a corpus. A preparation that was killed is
started over.
"""

import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter

import pyarrow as pa
import tokenizers
from tqdm import tqdm

from data_prep.documents import TextDocuments, find_inputs, read_documents
from data_prep.encode import Batch, encode_in_order
from data_prep.errors import DataError, UsageError
from data_prep.files import sync_file
from data_prep.format import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    DocumentCounts,
    InputInfo,
    Manifest,
    Split,
    read_manifest,
    token_dtype,
    tokenizer_sha256,
    write_manifest,
)
from data_prep.packing import Packer
from data_prep.progress import progress_bar
from data_prep.selection import Selection
from data_prep.split_writer import SplitWriter
from data_prep.tokenizer import SpecialIds, copy_tokenizer, open_tokenizer, special_ids

_PARTIAL_NAME = ".partial"
_BATCH_CHARACTERS = 1 << 18
_BATCH_DOCUMENTS = 1024
_LEFTOVERS = re.compile(
    r"(train|valid)-\d{5}-of-\d{5}\.arrow|\.partial|\.manifest\.json\.\d+\.partial|tokenizer"
)


@dataclass(frozen=True)
class ShardOptions:
    """What determines the shards besides the inputs and the tokenizer; kept in the manifest's settings."""

    length: int
    valid_fraction: float
    text_field: str
    text_documents: TextDocuments
    shard_rows: int
    keep_duplicates: bool
    min_chars: int


def shard_corpus(
    inputs: list[str], tokenizer_dir: Path, out: Path, options: ShardOptions, workers: int, command: str
) -> Manifest:
    """Prepare a corpus, or do nothing if `out` already holds the one asked for.

    Args:
        inputs: Files, directories and patterns, as `find_inputs` takes them.
        tokenizer_dir: A Hugging Face tokenizer directory.
        out: The corpus directory; new, empty, or left by a killed preparation.
        options: See ShardOptions.
        workers: Tokenizing processes.
        command: The command line, for the manifest.

    Raises:
        UsageError: `out` holds something else.
        DataError: An input or the tokenizer cannot be used, or no row came of them.
    """
    started = perf_counter()
    paths = find_inputs(inputs)
    ids = special_ids(open_tokenizer(tokenizer_dir), tokenizer_dir)
    if (out / MANIFEST_NAME).exists():
        manifest = read_manifest(out)
        _check_is_the_same(out, manifest, paths, tokenizer_sha256(tokenizer_dir), options)
        print(f"{out}: already done, {len(manifest.shards)} shards; 'verify' checks them byte by byte")
        return manifest
    _clear_leftovers(out)
    partial = out / _PARTIAL_NAME
    partial.mkdir(parents=True)
    try:
        preparation = _Preparation(paths, tokenizer_dir, ids, options, partial)
        preparation.run(workers)
        manifest = preparation.publish(out, command)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _print_summary(out, manifest, perf_counter() - started)
    return manifest


class _Preparation:
    """The state of one run of `shard_corpus`."""

    def __init__(
        self, paths: list[Path], tokenizer_dir: Path, ids: SpecialIds, options: ShardOptions, partial: Path
    ) -> None:
        self._paths = paths
        self._tokenizer_dir = tokenizer_dir
        self._ids = ids
        self._options = options
        self._inputs: list[InputInfo] = []
        self._selection = Selection(options.valid_fraction, options.min_chars, options.keep_duplicates)
        self._dtype = token_dtype(ids.vocab_size)
        self._packers: dict[Split, Packer] = {}
        self._writers: dict[Split, SplitWriter] = {}
        splits: tuple[Split, ...] = ("train", "valid")
        for split in splits:
            self._packers[split] = Packer(options.length, ids.cls, ids.sep, ids.pad, self._dtype)
            self._writers[split] = SplitWriter(
                split, partial, options.length, self._dtype, options.shard_rows
            )

    def run(self, workers: int) -> None:
        """Read, tokenize, pack and write everything to the working directory."""
        started = perf_counter()
        num_tokens = 0
        total_bytes = sum(path.stat().st_size for path in self._paths)
        with progress_bar("shard", total_bytes, "B") as bar:
            for split, tokens in encode_in_order(self._batches(bar), self._tokenizer_dir, workers):
                if len(tokens) == 0:
                    self._selection.drop_untokenizable(split)
                    continue
                self._writers[split].write(self._packers[split].add(tokens))
                num_tokens += len(tokens)
                rate = num_tokens / (perf_counter() - started)
                bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        for split, packer in self._packers.items():
            self._writers[split].write(packer.finish())
            self._writers[split].close()
        self._check_not_empty()

    def publish(self, out: Path, command: str) -> Manifest:
        """Give everything its final name; the manifest comes last."""
        shards = self._writers["train"].publish(out) + self._writers["valid"].publish(out)
        copy_tokenizer(self._tokenizer_dir, out / TOKENIZER_NAME)
        sync_file(out)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            sequence_length=self._options.length,
            token_dtype="uint16" if self._dtype.itemsize == 2 else "uint32",
            vocab_size=self._ids.vocab_size,
            tokenizer_sha256=tokenizer_sha256(out / TOKENIZER_NAME),
            train_tokens=self._writers["train"].tokens,
            valid_tokens=self._writers["valid"].tokens,
            documents=self._selection.counts(),
            inputs=self._inputs,
            shards=shards,
            settings=asdict(self._options),
            command=command,
            versions=_versions(),
        )
        write_manifest(out, manifest)
        return manifest

    def _batches(self, bar: tqdm) -> Iterator[Batch]:
        """The selected documents, in batches of a size that does not depend on the workers."""
        batch = Batch([], [])
        num_characters = 0
        for text, split in self._selected(bar):
            batch.texts.append(text)
            batch.splits.append(split)
            num_characters += len(text)
            if num_characters >= _BATCH_CHARACTERS or len(batch.texts) == _BATCH_DOCUMENTS:
                yield batch
                batch, num_characters = Batch([], []), 0
        if batch.texts:
            yield batch

    def _selected(self, bar: tqdm) -> Iterator[tuple[str, Split]]:
        finished_bytes = 0
        for path in self._paths:
            num_bytes = path.stat().st_size
            num_documents = 0
            for text, position in read_documents(
                path, self._options.text_field, self._options.text_documents
            ):
                num_documents += 1
                bar.update(finished_bytes + position - bar.n)
                split = self._selection.choose(text)
                if split is not None:
                    yield text, split
            finished_bytes += num_bytes
            bar.update(finished_bytes - bar.n)
            self._inputs.append(InputInfo(path=str(path), bytes=num_bytes, documents=num_documents))

    def _check_not_empty(self) -> None:
        counts = self._selection.counts()
        if self._writers["train"].rows == 0:
            raise DataError(f"no document is left to train on: {_told(counts)}")
        if self._options.valid_fraction > 0 and self._writers["valid"].rows == 0:
            raise DataError(
                f"--valid-fraction {self._options.valid_fraction:g} held out none of {counts.train:,} "
                "documents; use a larger one, or 0 to do without held-out documents"
            )


def _check_is_the_same(
    out: Path, manifest: Manifest, paths: list[Path], tokenizer_hash: str, options: ShardOptions
) -> None:
    """Refuse a finished corpus unless this very command would make it again."""
    differences = [
        f"--{name.replace('_', '-')} was {manifest.settings.get(name)!r}, now {value!r}"
        for name, value in asdict(options).items()
        if manifest.settings.get(name) != value
    ]
    if manifest.tokenizer_sha256 != tokenizer_hash:
        differences.append("the tokenizer is another one")
    before = {(entry.path, entry.bytes) for entry in manifest.inputs}
    now = {(str(path), path.stat().st_size) for path in paths}
    differences += [f"input {path} ({size} bytes) was not there" for path, size in sorted(now - before)]
    differences += [f"input {path} ({size} bytes) is missing now" for path, size in sorted(before - now)]
    if differences:
        told = "\n  ".join(differences)
        raise UsageError(
            f"{out} already holds a corpus made otherwise:\n  {told}\n"
            f"name another --out, or delete {out} and start again"
        )
    for shard in manifest.shards:
        path = out / shard.name
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise DataError(
                f"{path} is missing or cut short; 'python -m data_prep verify {out}' tells all "
                f"that is wrong; delete {out} and start again"
            )


def _clear_leftovers(out: Path) -> None:
    """Remove what a killed preparation left; refuse a directory that holds anything else."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a directory")
    present = sorted(out.iterdir()) if out.is_dir() else []
    foreign = [path.name for path in present if not _LEFTOVERS.fullmatch(path.name)]
    if foreign:
        raise UsageError(
            f"--out {out} is not empty and no corpus (it holds {foreign[0]}); name a new directory"
        )
    for path in present:
        if path.name == _PARTIAL_NAME:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def _versions() -> dict[str, str]:
    try:
        lodestar = metadata.version("lodestar")
    except metadata.PackageNotFoundError:
        lodestar = "not installed"
    return {
        "lodestar": lodestar,
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "tokenizers": tokenizers.__version__,
    }


def _told(counts: DocumentCounts) -> str:
    dropped = "".join(f", {count:,} {reason}" for reason, count in counts.dropped.items())
    return (
        f"{counts.read:,} documents read: {counts.train:,} to train on, {counts.valid:,} held out, "
        f"{counts.duplicates:,} duplicates{dropped}"
    )


def _print_summary(out: Path, manifest: Manifest, seconds: float) -> None:
    tokens = manifest.train_tokens + manifest.valid_tokens
    print(f"{out}: done in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s")
    print(f"  documents  {_told(manifest.documents)}")
    for split, split_tokens in (("train", manifest.train_tokens), ("valid", manifest.valid_tokens)):
        shards = [shard for shard in manifest.shards if shard.split == split]
        rows = f"{sum(shard.rows for shard in shards):,} rows of {manifest.sequence_length}"
        files = "1 shard" if len(shards) == 1 else f"{len(shards):,} shards"
        print(f"  {split}      {rows}, {split_tokens:,} tokens, {files}")
