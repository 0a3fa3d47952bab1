import gc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batches import (
    Batch,
    BatchGeometry,
    RowBatcher,
    StepBatches,
    evaluation_batches,
    load_steps,
)
from pipeline.data.corpus import CorpusRows, CorpusSplit, Vocabulary
from pipeline.data.masking import IGNORED_LABEL, MaskDraw, MaskingRule
from pipeline.data.order import rows_of_step

PAD = 1


class MemorySplit:
    """Rows of up to 12 tokens in one or two documents, in memory; row i begins with its own number."""

    sequence_length = 12

    def __init__(self, num_rows: int) -> None:
        generator = np.random.default_rng(0)
        self.num_rows = num_rows
        self.lengths = np.where(np.arange(num_rows) % 3 == 0, 12, generator.integers(2, 13, num_rows))
        ids = generator.integers(5, 100, (num_rows, 12))
        ids[:, 0] = 100 + np.arange(num_rows)  # not ordinary, so never masked
        self.ids = np.where(np.arange(12) < self.lengths[:, None], ids, PAD)

        border = np.where(np.arange(num_rows) % 2, self.lengths // 2, 0)[:, None]
        positions = np.arange(12, dtype=np.int32)
        is_real = positions < self.lengths[:, None]
        self.starts = (is_real * np.where(positions < border, 0, border)).astype(np.int32)
        self.ends = (is_real * np.where(positions < border, border, self.lengths[:, None])).astype(np.int32)

    def read(self, rows: np.ndarray) -> CorpusRows:
        arrays = (self.ids, self.lengths, self.starts, self.ends)
        return CorpusRows(*(values[rows].copy() for values in arrays))


def memory_batcher(num_rows: int, seed: int = 0) -> RowBatcher:
    rule = MaskingRule(
        rate=0.2, mask_share=0.8, random_share=0.1, mask_id=4, ordinary_ids=np.arange(5, 100, dtype=np.int64)
    )
    return RowBatcher(MemorySplit(num_rows), MaskDraw(rule), seed)


@pytest.fixture
def corpus_batcher(tiny_corpus: Path, vocabulary: Vocabulary) -> RowBatcher:
    rule = MaskingRule(
        rate=0.15,
        mask_share=0.8,
        random_share=0.1,
        mask_id=vocabulary.mask_id,
        ordinary_ids=vocabulary.ordinary_ids(),
    )
    return RowBatcher(CorpusSplit(tiny_corpus, "train"), MaskDraw(rule), seed=1)


def corrupted(batch: Batch) -> torch.Tensor:
    """What the model sees."""
    return batch.input_ids.scatter(1, batch.columns["positions"], batch.columns["replacements"])


def examples(batches: Iterable[Batch]) -> list[tuple]:
    """What a model sees and is asked, row by row: tokens, length, {column: label}, documents."""
    found = []
    for batch in batches:
        for ids, length, positions, labels, starts, ends in zip(
            corrupted(batch).tolist(),
            batch.lengths.tolist(),
            batch.columns["positions"].tolist(),
            batch.columns["labels"].tolist(),
            batch.documents.starts.tolist(),
            batch.documents.ends.tolist(),
        ):
            asked = {p: label for p, label in zip(positions, labels) if label != IGNORED_LABEL}
            found.append((tuple(ids), length, tuple(sorted(asked.items())), tuple(zip(starts, ends))))
    return found


def step_of_all_ranks(
    batcher: RowBatcher, step: int, global_batch: int, world_size: int, micro_batch: int
) -> list[tuple]:
    """The step's global batch in the documented order of dealing: micro-step, then rank, then row."""
    by_rank = []
    for rank in range(world_size):
        geometry = BatchGeometry(
            global_batch_size=global_batch, micro_batch_size=micro_batch, world_size=world_size, rank=rank
        )
        by_rank.append(StepBatches(batcher, geometry, order_seed=0)[step])
    assert {len(batches) for batches in by_rank} == {global_batch // (world_size * micro_batch)}
    return [row for micro_step in zip(*by_rank) for row in examples(micro_step)]


def factorizations(global_batch: int) -> list[tuple[int, int]]:
    """Every (world size, micro-batch) that divides a global batch."""
    return [
        (world, micro)
        for world in range(1, global_batch + 1)
        for micro in range(1, global_batch + 1)
        if global_batch % (world * micro) == 0
    ]


@settings(max_examples=25)
@given(st.integers(1, 60), st.sampled_from([1, 6, 8, 12]), st.integers(0, 50), st.integers(0, 2**40))
def test_every_division_of_work_trains_the_same_rows_and_masks(
    num_rows: int, global_batch: int, step: int, seed: int
) -> None:
    """num_rows below the batch size and steps that straddle epochs included."""
    batcher = memory_batcher(num_rows, seed)
    whole = step_of_all_ranks(batcher, step, global_batch, 1, global_batch)

    for world_size, micro_batch in factorizations(global_batch):
        assert step_of_all_ranks(batcher, step, global_batch, world_size, micro_batch) == whole


@given(st.integers(1, 60), st.integers(0, 100))
def test_a_step_holds_the_rows_of_the_global_order_each_masked_as_in_its_epoch(
    num_rows: int, step: int
) -> None:
    batcher = memory_batcher(num_rows)

    trained = step_of_all_ranks(batcher, step, 6, world_size=3, micro_batch=2)

    rows, epochs = rows_of_step(step, 6, num_rows, 0)
    assert [tokens[0] - 100 for tokens, *_ in trained] == rows.tolist()
    one_by_one = [batcher.batch(np.array([row]), int(epoch)) for row, epoch in zip(rows, epochs)]
    assert trained == examples(one_by_one)


def test_a_row_is_masked_anew_in_the_next_epoch() -> None:
    batcher = memory_batcher(30)

    first, second = (sorted(step_of_all_ranks(batcher, epoch, 30, 1, 30)) for epoch in (0, 1))

    same = [before == after for before, after in zip(first, second)]
    assert np.mean(same) < 0.2


def test_tokens_are_the_corpuss_in_every_row_and_epoch(corpus_batcher: RowBatcher) -> None:
    rows = np.arange(corpus_batcher.split.num_rows)
    original, lengths, *_ = corpus_batcher.split.read(rows)

    for epoch in (0, 1, 7):
        batch = corpus_batcher.batch(rows, epoch)

        assert (batch.input_ids.numpy() == original).all()
        assert (corrupted(batch).numpy() != original).any(axis=1).mean() > 0.9
        assert (batch.lengths.numpy() == lengths).all()
        assert batch.counts["predicted"] == (batch.columns["labels"] != IGNORED_LABEL).sum() > 0
        assert batch.counts["tokens"] == lengths.sum()
        assert batch.counts["positions"] == original.size


@given(st.integers(1, 40), st.integers(0, 2**40), st.integers(0, 9))
def test_tokens_are_those_read_whatever_the_masks(num_rows: int, seed: int, epoch: int) -> None:
    batcher = memory_batcher(num_rows, seed)

    batch = batcher.batch(np.arange(num_rows), epoch)

    assert (batch.input_ids.numpy() == batcher.split.ids).all()
    is_asked = batch.columns["labels"] != IGNORED_LABEL
    originals = batch.input_ids.gather(1, batch.columns["positions"])
    assert torch.equal(originals[is_asked], batch.columns["labels"][is_asked])
    assert torch.equal(originals[~is_asked], batch.columns["replacements"][~is_asked])


def test_documents_are_those_of_the_rows(corpus_batcher: RowBatcher) -> None:
    rows = np.random.default_rng(0).permutation(corpus_batcher.split.num_rows)
    *_, starts, ends = corpus_batcher.split.read(rows)

    documents = corpus_batcher.batch(rows, 0).documents

    assert (documents.starts.numpy() == starts).all()
    assert (documents.ends.numpy() == ends).all()


def test_corpus_rows_are_dealt_alike_to_every_number_of_processes(corpus_batcher: RowBatcher) -> None:
    num_rows = corpus_batcher.split.num_rows
    global_batch = 24 if num_rows % 24 else 40
    step = num_rows // global_batch  # the one that crosses into the next epoch

    whole = step_of_all_ranks(corpus_batcher, step, global_batch, 1, global_batch)

    for world_size, micro_batch in [(1, 2), (2, 4), (4, 1), (8, 1)]:
        assert step_of_all_ranks(corpus_batcher, step, global_batch, world_size, micro_batch) == whole


def test_attention_mask_marks_the_real_tokens() -> None:
    batcher = memory_batcher(30)

    batch = batcher.batch(np.arange(1, 12), 0)

    assert not batch.full
    assert batch.attention_mask().tolist() == (batch.input_ids != PAD).long().tolist()


def test_rows_without_padding_need_no_mask() -> None:
    batch = memory_batcher(30).batch(np.array([0, 3, 6]), 0)

    assert batch.full
    assert batch.attention_mask() is None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_gives_the_steps_in_order(num_workers: int) -> None:
    geometry = BatchGeometry(global_batch_size=4, micro_batch_size=2, world_size=2, rank=1)
    batches = StepBatches(memory_batcher(10), geometry, order_seed=0)

    loaded = list(load_steps(batches, range(3, 9), num_workers, pin_memory=False))

    assert [examples(step) for step in loaded] == [examples(batches[step]) for step in range(3, 9)]


class CollectorSplit:
    """Its items say whether garbage is collected where they are made."""

    def __getitem__(self, step: int) -> bool:
        return gc.isenabled()


def test_workers_collect_garbage_where_training_does_not() -> None:
    gc.disable()
    try:
        assert list(load_steps(CollectorSplit(), range(2), 1, pin_memory=False)) == [True, True]  # type: ignore[arg-type]
    finally:
        gc.enable()


def held_out(num_rows: int, max_rows: int | None, batch_size: int, world_size: int) -> list[list[Batch]]:
    batcher = memory_batcher(num_rows)
    return [
        list(evaluation_batches(batcher, max_rows, batch_size, rank, world_size))
        for rank in range(world_size)
    ]


def asked(batches: Iterable[Batch]) -> list[tuple]:
    """The examples with something to predict, in the order of their rows."""
    return sorted((row for row in examples(batches) if row[2]), key=lambda row: row[0][0])


@given(st.integers(1, 40), st.one_of(st.none(), st.integers(1, 50)), st.integers(1, 9), st.integers(1, 6))
def test_held_out_rows_are_each_asked_once_whatever_the_number_of_processes(
    num_rows: int, max_rows: int | None, batch_size: int, world_size: int
) -> None:
    by_rank = held_out(num_rows, max_rows, batch_size, world_size)

    found = asked(batch for batches in by_rank for batch in batches)

    used = min(num_rows, max_rows or num_rows)
    everything = asked([memory_batcher(num_rows).batch(np.arange(used), 0)])
    assert found == everything
    assert len({len(batches) for batches in by_rank}) == 1
    assert all(len(batch.input_ids) == batch_size for batches in by_rank for batch in batches)


def test_held_out_masks_never_change() -> None:
    once, again = held_out(20, None, 8, 1), held_out(20, None, 8, 1)

    assert examples(once[0]) == examples(again[0])


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 6))
def test_filler_rows_have_no_tokens_and_no_documents(num_rows: int, batch_size: int, world_size: int) -> None:
    by_rank = held_out(num_rows, None, batch_size, world_size)

    places = [  # of a rank's batches, in the order in which rows are dealt
        (batch, place) for batches in zip(*by_rank) for batch in batches for place in range(batch_size)
    ]
    for index, (batch, place) in enumerate(places):
        is_filler = index >= num_rows
        positions = torch.arange(12)
        in_document = (batch.documents.starts[place] <= positions) & (positions < batch.documents.ends[place])
        assert (batch.lengths[place] == 0) == is_filler
        assert in_document.any() != is_filler
        assert in_document.sum() == batch.lengths[place]
        if is_filler:
            assert not batch.full
            assert (batch.columns["labels"][place] == IGNORED_LABEL).all()
            assert (batch.documents.ends[place] == batch.documents.starts[place]).all()


def test_moving_a_batch_keeps_it() -> None:
    batch = memory_batcher(8).batch(np.arange(8), 0)

    moved = batch.to(torch.device("cpu"))

    assert examples([moved]) == examples([batch])
    assert moved.full == batch.full


def test_every_tensor_of_a_batch_is_moved() -> None:
    moved = memory_batcher(8).batch(np.arange(8), 0).to(torch.device("meta"))

    names = ("input_ids", "positions", "labels", "replacements")
    tensors = [moved.lengths, *(moved.columns[name] for name in names)]
    tensors += [moved.documents.starts, moved.documents.ends]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_every_tensor_of_a_batch_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning itself needs an accelerator."""
    pinned = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = memory_batcher(8).batch(np.arange(8), 0)

    before, after = examples([batch]), batch.pin_memory()

    assert examples([after]) == before
    names = ("input_ids", "positions", "labels", "replacements")
    tensors = [after.lengths, *(after.columns[name] for name in names)]
    tensors += [after.documents.starts, after.documents.ends]
    assert {id(tensor) for tensor in tensors} == {id(tensor) for tensor in pinned}
    assert len(pinned) == 7
