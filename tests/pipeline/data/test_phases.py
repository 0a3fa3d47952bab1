"""Rows over phases: a corpus is gone through in its one order, whatever lies between its steps."""

from itertools import accumulate, pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batches import PhasedBatches, load_steps
from pipeline.data.order import rows_of_step
from pipeline.data.phases import Phase, phase_at, place_of_step_zero, rows_taken
from tests.pipeline.data.test_batches import examples, memory_batcher

NUM_ROWS = {"a": 23, "b": 40, "c": 7}
BATCH_SIZES = (4, 8, 12)  # four processes can share each


@st.composite
def curricula(draw: st.DrawFn) -> list[Phase]:
    """Up to five phases of up to four steps."""
    steps = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    borders = [0, *accumulate(steps)]
    return [
        Phase(
            first_step=first_step,
            end_step=end_step,
            corpus=draw(st.sampled_from(sorted(NUM_ROWS))),
            global_batch_size=draw(st.sampled_from(BATCH_SIZES)),
            micro_batch_limit=draw(st.integers(1, 5)),
        )
        for first_step, end_step in pairwise(borders)
    ]


def batches_of(phases: list[Phase], world_size: int = 1, rank: int = 0) -> PhasedBatches:
    batchers = {corpus: memory_batcher(num_rows) for corpus, num_rows in NUM_ROWS.items()}
    return PhasedBatches.of(phases, batchers, 0, world_size, rank)


def rows_by_corpus(phases: list[Phase]) -> dict[str, list[int]]:
    """All rows of a run, in the order trained."""
    batches, rows = batches_of(phases), {corpus: [] for corpus in NUM_ROWS}
    for step in range(phases[-1].end_step):
        rows[phases[phase_at(phases, step)].corpus] += batches.part_of(step).rows(step).tolist()
    return rows


@given(curricula())
def test_each_corpus_is_trained_in_its_own_order_without_a_gap(phases: list[Phase]) -> None:
    for corpus, rows in rows_by_corpus(phases).items():
        expected, _ = rows_of_step(0, len(rows), NUM_ROWS[corpus], seed=0)
        assert rows == expected.tolist()
        assert rows_taken(phases, corpus, phases[-1].end_step) == len(rows)


@given(curricula())
def test_no_row_comes_twice_before_its_corpus_is_through(phases: list[Phase]) -> None:
    for corpus, rows in rows_by_corpus(phases).items():
        size = NUM_ROWS[corpus]
        for start in range(0, len(rows), size):
            epoch = rows[start : start + size]
            assert len(set(epoch)) == len(epoch)


@settings(max_examples=25)
@given(curricula(), st.sampled_from([2, 4]))
def test_every_number_of_processes_trains_the_same_rows_and_masks(
    phases: list[Phase], world_size: int
) -> None:
    alone, ranks = batches_of(phases), [batches_of(phases, world_size, rank) for rank in range(world_size)]
    for step in range(phases[-1].end_step):
        together = [row for batches in ranks for row in examples(batches[step])]
        assert sorted(together) == sorted(examples(alone[step]))


@settings(max_examples=10)
@given(curricula(), st.data())
def test_begun_anywhere_the_steps_are_the_same(phases: list[Phase], data: st.DataObject) -> None:
    """As after a resume, and with a worker that reads ahead over the borders."""
    end = phases[-1].end_step
    start = data.draw(st.integers(0, end - 1))
    batches = batches_of(phases)

    for num_workers in (0, 1):
        loaded = load_steps(batches, range(start, end), num_workers, pin_memory=False)
        assert [examples(step) for step in loaded] == [examples(batches[s]) for s in range(start, end)]


@given(curricula(), st.integers(0, 20))
def test_a_step_is_in_the_phase_that_spans_it(phases: list[Phase], step: int) -> None:
    phase = phases[phase_at(phases, step)]
    assert phase.first_step <= step
    assert step < phase.end_step or phase is phases[-1]


@given(curricula())
def test_epochs_count_what_was_trained_of_the_phases_corpus(phases: list[Phase]) -> None:
    batches = batches_of(phases)
    for phase, part in zip(phases, batches.parts):
        for step in range(phase.first_step, phase.end_step + 1):
            taken = rows_taken(phases, phase.corpus, step)
            assert part.epochs_before(step) == taken / NUM_ROWS[phase.corpus]


def test_a_corpus_that_comes_back_goes_on() -> None:
    """Of 23 rows, 8 are trained before the other corpus, and 12 per step after it."""
    ends, corpora, sizes = (2, 4, 6), ("a", "b", "a"), (4, 8, 12)
    phases = [
        Phase(first_step=s, end_step=e, corpus=c, global_batch_size=b, micro_batch_limit=b)
        for s, e, c, b in zip((0, 2, 4), ends, corpora, sizes)
    ]
    batches = batches_of(phases)

    assert [place_of_step_zero(phases, index) for index in range(3)] == [0, -16, 8 - 48]
    order, epochs = rows_of_step(0, 32, 23, 0)
    assert batches.part_of(4).rows(4).tolist() == order[8:20].tolist()
    assert batches.part_of(5).rows(5).tolist() == order[20:32].tolist()
    assert np.unique(epochs[20:32]).tolist() == [0, 1]
    assert batches.part_of(2).rows(2).tolist() == rows_of_step(0, 8, 40, 0)[0].tolist()
