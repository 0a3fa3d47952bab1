import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

from data_prep.__main__ import main as data_prep
from data_prep.format import (
    FORMAT_VERSION,
    DocumentCounts,
    Manifest,
    ShardInfo,
    read_manifest,
    shard_name,
)
from pipeline.data.corpus import CorpusSplit, Vocabulary, piece_borders, read_vocabulary
from pipeline.errors import DataError
from tests.shard_files import write_rows


@pytest.fixture
def corpus_copy(tiny_corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_corpus, tmp_path / "copy"))


def open_with_datasets(corpus: Path, split: str) -> Dataset:
    shards = read_manifest(corpus).shards_of(split)
    return concatenate_datasets([Dataset.from_file(str(corpus / shard.name)) for shard in shards])


@pytest.mark.parametrize("split", ["train", "valid"])
def test_rows_are_those_another_reader_sees(tiny_corpus: Path, split: str) -> None:
    corpus = CorpusSplit(tiny_corpus, split)

    input_ids, lengths, *_ = corpus.read(np.arange(corpus.num_rows))

    expected = open_with_datasets(tiny_corpus, split)
    assert corpus.num_rows == len(expected)
    assert input_ids.tolist() == expected["input_ids"][:]
    assert lengths.tolist() == [sum(pieces) for pieces in expected["segments"]]


def borders_of(pieces: list[int], num_positions: int) -> tuple[list[int], list[int]]:
    """Start and end of each position's piece, one piece after another; 0 after the last."""
    starts, ends = [0] * num_positions, [0] * num_positions
    first = 0
    for length in pieces:
        for position in range(first, first + length):
            starts[position], ends[position] = first, first + length
        first += length
    return starts, ends


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=8), st.integers(0, 3))
def test_borders_are_those_of_one_piece_after_another(rows: list[list[int]], spare: int) -> None:
    """Rows without pieces, full rows and empty pieces included."""
    num_positions = max(1, *map(sum, rows)) + spare

    lengths, starts, ends = piece_borders([np.array(row, dtype=np.uint16) for row in rows], num_positions)

    expected = [borders_of(row, num_positions) for row in rows]
    assert (starts.tolist(), ends.tolist()) == tuple(map(list, zip(*expected)))
    assert lengths.tolist() == [sum(row) for row in rows]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_documents_are_the_pieces_of_every_row(tiny_corpus: Path, split: str) -> None:
    corpus = CorpusSplit(tiny_corpus, split)

    *_, starts, ends = corpus.read(np.arange(corpus.num_rows))

    segments = open_with_datasets(tiny_corpus, split)["segments"][:]
    expected = [borders_of(pieces, corpus.sequence_length) for pieces in segments]
    assert (starts.tolist(), ends.tolist()) == tuple(map(list, zip(*expected)))
    assert max(len(pieces) for pieces in segments) > 1  # not all rows are one piece
    assert starts.dtype == ends.dtype == np.int32


def test_documents_begin_and_end_with_their_special_tokens(tiny_corpus: Path, vocabulary: Vocabulary) -> None:
    """Except where a document goes on from the row before, or into the next."""
    corpus = CorpusSplit(tiny_corpus, "train")
    input_ids, lengths, starts, ends = corpus.read(np.arange(corpus.num_rows))
    positions = np.arange(corpus.sequence_length)
    is_real = positions < lengths[:, None]

    inner_start = is_real & (starts == positions) & (positions > 0)
    inner_end = is_real & (ends == positions + 1) & (positions < lengths[:, None] - 1)

    assert (input_ids[inner_start] == vocabulary.cls_id).all()
    assert (input_ids[inner_end] == vocabulary.sep_id).all()
    assert inner_start.sum() == inner_end.sum() > 0


def test_padding_belongs_to_no_document(tiny_corpus: Path, tmp_path: Path) -> None:
    padded = tmp_path / "padded"
    options = ["--out", str(padded), "--length", "32", "--packing", "document", "--workers", "1"]
    assert data_prep(["repack", str(tiny_corpus), *options]) == 0
    for split in ("train", "valid"):
        corpus = CorpusSplit(padded, split)
        _, lengths, starts, ends = corpus.read(np.arange(corpus.num_rows))
        is_real = np.arange(corpus.sequence_length) < lengths[:, None]

        assert not is_real.all()
        assert ((ends > starts) == is_real).all()
        assert (starts[~is_real] == 0).all()
        assert (ends[~is_real] == 0).all()


def test_rows_come_in_the_order_asked(tiny_corpus: Path) -> None:
    corpus = CorpusSplit(tiny_corpus, "train")
    wanted = np.array([501, 0, 499, 500, corpus.num_rows - 1, 0])

    together = corpus.read(wanted)

    for index, row in enumerate(wanted):
        for values, alone in zip(together, corpus.read(np.array([row]))):
            assert (values[index] == alone[0]).all()


def test_only_padding_follows_a_rows_tokens(tiny_corpus: Path, vocabulary: Vocabulary) -> None:
    for split in ("train", "valid"):
        corpus = CorpusSplit(tiny_corpus, split)
        input_ids, lengths, *_ = corpus.read(np.arange(corpus.num_rows))
        is_real = np.arange(corpus.sequence_length) < lengths[:, None]

        assert ((input_ids != vocabulary.pad_id) == is_real).all()


def test_changing_what_was_read_changes_no_row(tiny_corpus: Path) -> None:
    corpus = CorpusSplit(tiny_corpus, "train")
    input_ids, *_ = corpus.read(np.array([0]))
    before = input_ids.copy()

    input_ids[:] = 0

    assert (corpus.read(np.array([0]))[0] == before).all()


def write_numbered_corpus(directory: Path, rows_per_shard: list[int]) -> Manifest:
    """A corpus whose row i holds i in every place and has i % 8 + 1 tokens, in one or two pieces."""
    shards, row = [], 0
    for index, count in enumerate(rows_per_shard):
        name = shard_name("train", index, len(rows_per_shard))
        made = []
        for number in range(row, row + count):
            length = number % 8 + 1
            made.append((np.full(8, number), [length] if length < 3 else [2, length - 2]))
        row += count
        blocks = write_rows(directory / name, 8, np.uint16, made)
        shards.append(ShardInfo(name=name, split="train", rows=count, bytes=0, sha256="", blocks=blocks))
    return Manifest(
        format_version=FORMAT_VERSION,
        sequence_length=8,
        token_dtype="uint16",
        vocab_size=10_000,
        tokenizer_sha256="",
        splits={},
        documents=DocumentCounts(
            read=0, train=0, valid=0, duplicates=0, near_duplicates=0, dropped={}, damaged={}
        ),
        sources=[],
        inputs=[],
        shards=shards,
        settings={},
        command="",
        versions={},
    )


def test_rows_are_found_across_shards_and_record_batches(tmp_path: Path) -> None:
    manifest = write_numbered_corpus(tmp_path, [2100, 1, 1024, 5])

    corpus = CorpusSplit(tmp_path, "train", manifest)

    assert corpus.num_rows == 3130
    rows = np.arange(3130)[::-1]
    input_ids, lengths, *_ = corpus.read(rows)
    assert (input_ids == rows[:, None]).all()
    assert (lengths == rows % 8 + 1).all()


def test_documents_are_found_across_shards_and_record_batches(tmp_path: Path) -> None:
    manifest = write_numbered_corpus(tmp_path, [2100, 1, 1024, 5])
    rows = np.arange(3130)[::-1]

    *_, starts, ends = CorpusSplit(tmp_path, "train", manifest).read(rows)

    lengths = (rows % 8 + 1).tolist()
    expected = [borders_of([length] if length < 3 else [2, length - 2], 8) for length in lengths]
    assert (starts.tolist(), ends.tolist()) == tuple(map(list, zip(*expected)))


def test_tokens_are_counted_in_all_shards(tiny_corpus: Path, vocabulary: Vocabulary) -> None:
    corpus = CorpusSplit(tiny_corpus, "train")

    counts = corpus.token_counts(vocabulary.size)

    input_ids, *_ = corpus.read(np.arange(corpus.num_rows))
    assert counts.tolist() == np.bincount(input_ids.ravel(), minlength=vocabulary.size).tolist()


def test_missing_shard_is_named(corpus_copy: Path) -> None:
    shard = read_manifest(corpus_copy).shards_of("train")[1].name
    (corpus_copy / shard).unlink()

    with pytest.raises(DataError, match=f"{shard}.*missing"):
        CorpusSplit(corpus_copy, "train")


def test_unreadable_shard_is_named(corpus_copy: Path) -> None:
    shard = read_manifest(corpus_copy).shards_of("valid")[0].name
    (corpus_copy / shard).write_bytes(b"not arrow")

    with pytest.raises(DataError, match=shard):
        CorpusSplit(corpus_copy, "valid")


def test_shard_with_other_rows_than_its_manifest_says_is_named(corpus_copy: Path) -> None:
    shards = read_manifest(corpus_copy).shards_of("train")
    shutil.copy(corpus_copy / shards[0].name, corpus_copy / shards[-1].name)

    with pytest.raises(DataError, match=f"{shards[-1].name}.*rows.*{shards[-1].rows}"):
        CorpusSplit(corpus_copy, "train")


def test_vocabulary_knows_the_special_tokens(tiny_corpus: Path, vocabulary: Vocabulary) -> None:
    tokens = json.loads((tiny_corpus / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in tokens["added_tokens"]}

    assert vocabulary.size == read_manifest(tiny_corpus).vocab_size
    assert vocabulary.cls_id == ids["<s>"]
    assert vocabulary.sep_id == ids["</s>"]
    assert vocabulary.pad_id == ids["<pad>"]
    assert vocabulary.mask_id == ids["<mask>"]
    assert set(vocabulary.special_ids) == set(ids.values())


def test_ordinary_ids_are_all_but_the_special_ones(vocabulary: Vocabulary) -> None:
    ordinary = vocabulary.ordinary_ids()

    assert set(ordinary.tolist()) == set(range(vocabulary.size)) - set(vocabulary.special_ids)
    assert (np.diff(ordinary) > 0).all()


def test_tokenizer_without_a_mask_token_is_refused(corpus_copy: Path) -> None:
    path = corpus_copy / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["mask_token"]
    path.write_text(json.dumps(config), encoding="utf-8")
    path = path.with_name("tokenizer.json")
    path.write_text(path.read_text(encoding="utf-8").replace("<mask>", "<gone>"), encoding="utf-8")

    with pytest.raises(DataError, match="mask_token"):
        read_vocabulary(corpus_copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_tokenizer_is_named(corpus_copy: Path, name: str) -> None:
    path = corpus_copy / "tokenizer" / name
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")

    with pytest.raises(DataError, match="tokenizer"):
        read_vocabulary(corpus_copy)


def test_a_share_is_the_first_rows_and_nothing_beyond_counts(
    tiny_corpus: Path, vocabulary: Vocabulary
) -> None:
    whole, part = CorpusSplit(tiny_corpus, "train"), CorpusSplit(tiny_corpus, "train", share=0.05)

    rows = np.arange(part.num_rows)
    assert part.num_rows == round(0.05 * whole.num_rows)
    assert (part.read(rows).input_ids == whole.read(rows).input_ids).all()
    expected = np.bincount(whole.read(rows).input_ids.ravel(), minlength=vocabulary.size)
    assert (part.token_counts(vocabulary.size) == expected).all()
    assert (whole.token_counts(vocabulary.size, part.num_rows) == expected).all()
    assert CorpusSplit(tiny_corpus, "train", share=1e-9).num_rows == 1
