"""Guidance of a run: schedule, targets and formation put together."""

import pytest
import torch

from pipeline.data.batches import MicroBatch
from pipeline.data.masking import IGNORED_LABEL
from pipeline.guidance.allocation import allocate
from pipeline.guidance.formation import Formation
from pipeline.guidance.guide import AttentionGuide, GuidanceTerms
from pipeline.guidance.loss import make_guidance_loss
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.schedule import GuidedStep
from pipeline.processes.cluster import Cluster
from tests.pipeline.guidance.cases import documents_of, schedule_of
from tests.pipeline.guidance.dense import TOKEN_SETS, Rows, target_matrices

ROWS = Rows(torch.tensor([[9, 0, 9, 2, 9, 9], [0, 9, 9, 2, 2, 2]]), [[4, 2], [3]])
HEADS = {"next": 1, "delimiters": 2}
MASK_ID = 4


def make_guidance(**changes: object) -> RunGuidance:
    """Of two layers, one of them looked at in a sampled step."""
    allocation = allocate([HEADS] * 2, TOKEN_SETS)
    schedule = schedule_of(**changes)
    loss = make_guidance_loss(allocation, "mean")
    return RunGuidance(AttentionGuide(allocation), schedule, loss, Formation(schedule, 0.5))


def masked_batch() -> MicroBatch:
    """ROWS with the delimiter of the first document masked, and another one made of an ordinary token."""
    ids = ROWS.ids.clone()
    ids[0, 1], ids[1, 1] = MASK_ID, 2
    return MicroBatch(
        input_ids=ids,
        lengths=torch.tensor(ROWS.lengths),
        documents=documents_of(ROWS),
        positions=torch.tensor([[1, 0], [1, 2]]),
        labels=torch.tensor([[0, IGNORED_LABEL], [9, IGNORED_LABEL]]),
        full=False,
    )


def terms_of(mass: float, rows: float = 10.0) -> GuidanceTerms:
    """Of two layers of three heads, all alike."""
    return GuidanceTerms(
        errors=torch.zeros(2, 3), mass=torch.full((2, 3), mass * rows), rows=torch.full((2, 3), rows)
    )


def test_targets_are_those_of_the_uncorrupted_tokens() -> None:
    guidance = make_guidance()

    targets = guidance.targets(masked_batch(), guidance.at(0))

    expected = [target_matrices(name, ROWS).sum(-1) > 0 for name in HEADS]
    assert torch.equal(targets.valid, torch.stack(expected))
    assert targets.columns[0].tolist() == [[0.0, 0.5, 0.0, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("guided", "needed"),
    [(GuidedStep(), False), (GuidedStep(bias=1.0), True), (GuidedStep.looking_at([1]), True)],
)
def test_targets_are_made_where_a_step_needs_them(guided: GuidedStep, needed: bool) -> None:
    assert (make_guidance().targets(masked_batch(), guided) is not None) == needed


def test_valid_rows_are_those_of_all_micro_batches() -> None:
    guidance = make_guidance()
    targets = guidance.targets(masked_batch(), guidance.at(0))

    counts = guidance.count_valid([targets, targets])

    # "next": 3 and 1 of the first row's documents, 2 of the second's; delimiters: 4, 0 and 3.
    assert counts.tolist() == [2 * 6, 2 * 7]
    assert counts.dtype == torch.float64
    assert guidance.count_valid([None, None]).tolist() == [0.0, 0.0]
    assert guidance.count_valid([]).tolist() == [0.0, 0.0]


def test_a_step_is_what_the_schedule_says_before_and_after_the_patterns_form() -> None:
    guidance = make_guidance()
    before = [guidance.at(step) for step in range(100)]

    guidance.formation.formed_step = 20

    assert before == [guidance.schedule.at(step) for step in range(100)]
    assert [len(guidance.at(step).layers) for step in range(40)] == [2] * 20 + [1] * 20


def test_patterns_form_in_a_step_that_is_due(alone: Cluster) -> None:
    guidance, outcomes = make_guidance(), []

    for step in range(30):
        guidance.measure(step, terms_of(mass=0.02 * step))
        guidance.measure(step, terms_of(mass=0.02 * step + 0.1))
        outcomes.append(guidance.judge(step, alone))

    # Steps 9 and 19 (counted from 0) have 0.23 and 0.43 on target, step 29 has 0.63.
    assert outcomes[:29] == [None] * 29
    assert outcomes[29] == pytest.approx(0.63)
    assert guidance.formation.formed_step == 30


def test_nothing_is_measured_where_the_dense_phase_has_a_fixed_length(alone: Cluster) -> None:
    guidance = make_guidance(dense_steps=20)

    for step in range(30):
        guidance.measure(step, terms_of(mass=0.9))
        assert guidance.judge(step, alone) is None

    assert guidance.formation.formed_step is None
